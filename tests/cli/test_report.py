"""`report`: a page that needs nothing beside it, tells what the other reports tell, and lets nothing in."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from spikeconv.evaluate.perplexity import PerplexityResult
from spikeconv.evaluate.stored import save_perplexity, text_question
from spikeconv.pages import build

Fixture = Callable[..., Any]
HOSTILE = "<script>alert(1)</script>"
TOKENS = (HOSTILE, "$x_{$", "\x07\x1b[0m", "]]>", "--><b>", '" onload="x', "=1+1", "日本", "\n", "")
FETCHES = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href", "formaction", "ping"}


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check_alone(text: str) -> Page:
    """Nothing is fetched, nothing runs but our script, and no two elements have one name."""
    page = Page(text)
    for tag, name, value in page.attributes:
        assert name not in FETCHES or value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
        assert not name.startswith("on") and "url(" not in value.replace("url(#", "")
    names = [value for _, name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names)) > 100
    targets = {value[1:] for _, name, value in page.attributes if name in ("href", "xlink:href") and value[0] == "#"}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets <= set(names)
    assert page.tags.count("script") == 1 and not {"link", "iframe", "object", "embed", "img"} & set(page.tags)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value.startswith("default-src"))
    assert script and base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() in policy
    assert "@import" not in text and not re.search(r"https?:", text)
    return page


def test_the_page(spikeconv: Fixture, converted: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints of one base, and the recording of another with a hostile name and hostile tokens."""
    bodies = (("llama", {}), ("llama", {"temporal_code": "ramp", "kv_bits": 4}), ("bert", {}))
    paths = [tmp_path / name for name in ("one", "two", HOSTILE.replace("/", "∕"))]
    for path, (family, settings) in zip(paths, bodies, strict=True):
        shutil.copytree(converted(family, **{"bits": "4-1.58", **settings}), path)
    for path, value in zip(paths, (31.0, 13.5, 12.0), strict=True):
        result = PerplexityResult(value, 1.0, 99, 100, 1.0, 400, "float32", "cpu")
        save_perplexity(path, text_question("text", "text", 100, None), result)
    (paths[1] / "eval/by-hand.json").write_text("{}", encoding="utf-8")
    recording = paths[2] / "record"
    assert spikeconv("record", paths[2], "--tokens", 60, "--raster-tokens", len(TOKENS), "-q").code == 0
    arrays = dict(np.load(recording / "record.npz"))
    np.savez(recording / "record.npz", **{**arrays, "raster_tokens": np.array(TOKENS)})

    draw, out = build.model_pictures, tmp_path / "out"  # of one of the three: drawing is slow
    monkeypatch.setattr(build, "model_pictures", lambda report, key, _: draw(report, key) if key[:2] == "m3" else [])
    made = spikeconv("report", *paths[:2], recording, "-o", out, "--text", __file__, "-q")
    assert made.code == 2 and "record" in made.err and "leave --text out" in made.err and not out.exists()
    assert spikeconv("record", paths[0], "--tokens", 90, "-q").code == 0
    made = spikeconv("report", *paths[:2], recording, "-o", out, "--profile", "lemaire45", "-q")
    assert made.code == 0, made.err
    assert {path.suffix for path in (out / "figures").iterdir()} == {".svg", ".png"}
    page = check_alone((out / "report.html").read_text("utf-8"))
    assert any(HOSTILE.replace("/", "∕") in text for text in page.texts)  # shown, not run
    for path in (out / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")

    content = json.loads((out / "report.json").read_text("utf-8"))
    assert [model["name"] for model in content["models"]] == [path.name for path in paths]
    fired = spikeconv("report-firing-rate", "--record", paths[0] / "record", "--json", "-q").json
    energy = spikeconv("report-energy", "--record", paths[0] / "record", "--json", "-q").json
    first = content["models"][0]
    assert first["text"]["tokens"] == 90 == first["totals"]["tokens"]  # its own recording
    assert first["firing"]["total"] == fired["total"] and first["neurobench"] == fired["neurobench"]
    assert first["energy"]["lemaire45"]["whole"]["total"] == energy["profiles"]["lemaire45"]["total"]
    with (out / "totals.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["spikes of an input"]) for row in rows] == [
        model["totals"]["spikes_per_input"] for model in content["models"]
    ]
    (compared,) = content["comparisons"]  # of one base model alone, though the question is the same
    assert [(point["name"], point["value"]) for point in compared["points"]] == [("one", 31.0), ("two", 13.5)]
    assert any("different base models" in text for text in page.texts)
    (left_out,) = (note for note in content["missing"] if not note["command"])
    assert "by-hand.json" in left_out["words"] and "<code></code>" not in (out / "report.html").read_text("utf-8")
    commands = [note["command"].split()[1:3] for note in content["missing"] if note["command"]]
    assert commands == [["eval", str(path)] for path in paths[:2]]


def test_bad_input(spikeconv: Fixture, converted: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, full, made = converted("llama", bits="4-1.58"), tmp_path / "full", tmp_path / "made"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    negative = tmp_path / "negative.yaml"
    negative.write_text("source: s\nnode: n\nfloat_mac: -1\ninteger_mac: {8: 1}\naccumulate: 1\n")
    new = ("-o", tmp_path / "new")
    cases: tuple[tuple[tuple[object, ...], tuple[str, ...]], ...] = (
        ((path, "-o", full), ("exists and is not empty",)),
        ((path, "-o", full, "--force"), ("holds no report.json",)),
        ((path, "-o", full / "mine.txt"), ("is a file",)),
        ((full, *new), ("neither a converted checkpoint", "nor a recording")),
        ((path, *new, "--profile", "horowitz46"), ("horowitz46", "Did you mean horowitz45?")),
        ((path, *new, "--profile", negative), ("float_mac", "-1")),
        ((path, *new, "--profile", "sdllm45,sdllm45"), ("twice",)),
        ((path, *new, "--tokens", 0), ("--tokens",)),
        ((path, *new, "--text", tmp_path / "none.txt"), ("none.txt",)),
        ((path, *new, "--text", full / "mine.txt", "--dataset", "c4"), ("not both",)),
    )
    script = f"""if True:
        import json, sys
        from spikeconv.cli.app import main
        for arguments in json.loads({json.dumps(json.dumps([list(map(str, case[0])) for case in cases]))}):
            sys.argv = ["spikeconv", "report", *arguments]
            try:
                main()
            except SystemExit as stop:
                print("=", stop.code, "torch" in sys.modules, file=sys.stderr)
    """
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120).stderr
    answers = told.split("= 2 False\n")
    assert len(answers) == len(cases) + 1, told  # each with exit code 2, and before torch is imported
    for (_, words), answer in zip(cases, answers, strict=False):
        assert all(word in answer.replace("\n", " ") for word in words), (words, answer)

    monkeypatch.setattr(build, "model_pictures", lambda *_: [])
    assert spikeconv("report", path, "-o", made, "--tokens", 20, "-q").code == 0
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert spikeconv("report", path, "-o", made, "--tokens", 20, "-q").code == 2
    with monkeypatch.context() as patch:
        patch.setattr(build, "render", lambda *_: 1 / 0)  # in the middle of the work
        assert spikeconv("report", path, "-o", made, "--tokens", 20, "--force", "-q").code == 1
    assert {file: file.read_bytes() for file in made.rglob("*") if file.is_file()} == before
    assert spikeconv("report", path, "-o", made, "--tokens", 30, "--force", "-q").code == 0
    assert json.loads((made / "report.json").read_text())["models"][0]["totals"]["tokens"] == 30
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "cache") == ["full", "made", "negative.yaml"]
    monkeypatch.setattr("spikeconv.cli.early.find_spec", lambda _: None)
    absent = spikeconv("report", path, *new)
    assert absent.code == 2 and "pip install 'spikeconv[report]'" in absent.err
