"""`record` once, report many times."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fixture = Callable[..., Any]


def test_reports_of_a_recording_are_those_of_the_checkpoint(
    spikeconv: Fixture, converted: Fixture, tmp_path: Path
) -> None:
    path, text = converted("llama", bits="4-1.58"), tmp_path / "text.txt"
    text.write_text("some words and some more of them " * 30)
    made = spikeconv("record", path, "-o", tmp_path / "r", "--text", text, "--tokens", 150, "--json", "-q")
    assert made.code == 0, made.err
    about = json.loads((tmp_path / "r" / "record.json").read_text())
    assert made.json["measured"]["checkpoint"] == about["checkpoint"] and about["text"]["tokens"] == 150
    assert len(about["checkpoint"]["sha256"]) == 64 and about["checkpoint"]["settings"]["weights"]["bits"] == 4
    options = ("--text", text, "--tokens", 150, "--json", "-q")
    for command in ("report-firing-rate", "report-energy"):
        of_record = spikeconv(command, "--record", tmp_path / "r", "--json", "-q").json
        of_checkpoint = spikeconv(command, path, *options).json
        assert {**of_record, "of": 0} == {**of_checkpoint, "of": 0}
    fired = spikeconv("report-firing-rate", "--record", tmp_path / "r", "--firing", "async", "--json", "-q").json
    assert {each["latency"] for each in fired["firing"]["async"]} == {1}
    assert "busiest step" in spikeconv("report-firing-rate", "--record", tmp_path / "r", "--firing", 4, "-q").out


def test_bad_input(spikeconv: Fixture, converted: Fixture, tmp_path: Path) -> None:
    path, text = converted("llama", bits="4-1.58"), tmp_path / "text.txt"
    text.write_text("words")
    assert spikeconv("record", path, "-o", tmp_path / "r", "--tokens", 20, "-q").code == 0
    before = (tmp_path / "r" / "record.json").read_bytes()
    (tmp_path / "file").write_text("")
    for arguments, words in (
        (("record", path, "-o", tmp_path / "r"), ("holds a recording already", "--force")),
        (("record", path, "-o", tmp_path / "file"), ("no folder",)),
        (("record", path, "-o", tmp_path / "n", "--text", text, "--task", "piqa"), ("--text", "--task")),
        (("record", path, "-o", tmp_path / "n", "--limit", 4), ("--limit", "--task")),
        (("record", path, "-o", tmp_path / "n", "--raster", "nothing"), ("nothing", "No converted linear")),
        (("record", path, "-o", tmp_path / "n", "--task", "piqua"), ("piqua", "piqa")),
        (("record", tmp_path, "-o", tmp_path / "n"), ("not a converted checkpoint",)),
        (("report-firing-rate", path, "--record", tmp_path / "r"), ("CHECKPOINT",)),
        (("report-firing-rate", "--record", tmp_path / "r", "--save"), ("--save",)),
        (("report-firing-rate", "--record", tmp_path), ("record.json",)),
        (("report-firing-rate", "--record", tmp_path / "r", "--firing", "0"), ("--firing",)),
        (("report-energy", "--record", tmp_path / "r", "--model", "llama2-7b"), ("--model",)),
        (("report-energy", path, "--record", tmp_path / "r"), ("CHECKPOINT",)),
    ):
        result = spikeconv(*arguments, "-q")
        assert result.code == 2 and "Traceback" not in result.err and result.out == "", (arguments, result)
        assert all(word in result.err for word in words), (arguments, result.err)
    assert (tmp_path / "r" / "record.json").read_bytes() == before and not (tmp_path / "n").exists()
