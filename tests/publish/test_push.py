"""What arrives at a hub of our own is the checkpoint, and tells nothing of the machine that it comes from."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import COMMIT, MODEL, Hub, serve
from typer.testing import CliRunner

from spikeconv.checkpoint.card import CARD, is_ours
from spikeconv.checkpoint.folder import checkpoint_digest
from spikeconv.checkpoint.journal import JOURNAL
from spikeconv.cli.app import app
from spikeconv.verification.check import check_files

Fixture = Callable[..., Any]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty one, and somebody who is logged in."""
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    (tmp_path / "there").mkdir()
    with serve(tmp_path / "there", tmp_path / "cache", monkeypatch) as served:
        yield served


@pytest.fixture
def checkpoint(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> Path:
    """A converted one, whose source says its licence, with results beside it."""
    source = tmp_path / "somebodys" / "source"
    shutil.copytree(tiny_checkpoint("llama"), source)
    (source / CARD).write_text("---\nlicense: llama2\nlanguage: [en, fr]\nsecret: {a: b}\n---\n# Model\n")
    (source / "LICENSE").write_text("words of lawyers")
    run_convert(source, tmp_path / "model", bits="4-1.58")
    text = tmp_path / "somebodys" / "text.txt"
    text.write_text("some words and some more of them " * 9)
    for command in (["record", "--tokens", "40"], ["perplexity", "--window", "32"]):
        result = CliRunner().invoke(app, [*command, str(tmp_path / "model"), "--text", str(text), "-q"])
        assert result.exit_code == 0, result.output
    return tmp_path / "model"


def push(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["push", *map(str, arguments)])


def test_what_arrives(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    (hub.folder / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier upload")
    (hub.folder / "notes.txt").write_text("somebody's")
    listed = push(checkpoint, MODEL, "--dry-run", "--json", "-q")
    assert listed.exit_code == 0, listed.output
    files = json.loads(listed.stdout)["files"]
    assert not hub.commits and json.loads(listed.stdout)["left_out"] == ["eval", "record"]
    result = push(checkpoint, MODEL, "--message", "words", "--revision", "try", "--json", "-q")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["url"].endswith(COMMIT) and json.loads(result.stdout)["files"] == files
    assert hub.commits == [("words", "try")] and hub.branches == ["try"]
    there = {path.name: path.stat().st_size for path in hub.folder.iterdir()}
    assert there == {**files, "notes.txt": len("somebody's")}  # and stale weights are gone
    assert "LICENSE" in files
    # It is the same checkpoint, every byte of it, and names no folder of ours.
    assert check_files(hub.folder).clean and checkpoint_digest(hub.folder) == checkpoint_digest(checkpoint)
    for path in hub.folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    card = (hub.folder / CARD).read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "llama2" and head["language"] == ["en", "fr"] and head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-generation" and "secret" not in head and "base_model" not in head
    assert f'from_pretrained("{MODEL}")' in card and "@article{sdllm2026," in card and is_ours(card)
    firing = json.loads(
        CliRunner().invoke(app, ["report-firing-rate", "--record", f"{checkpoint}/record", "--json"]).stdout
    )
    shown = f"{firing['total']['spikes_per_input']:.3f} | {firing['total']['firing_rate']:.3f}"
    assert shown in card and "perplexity of text.txt in windows of 32" in card and "Horowitz" in card


def test_a_card_that_was_edited_stays(hub: Hub, checkpoint: Path) -> None:
    ours = (checkpoint / CARD).read_text()
    assert is_ours(ours) and not is_ours(ours.replace("spike", "spark")) and not is_ours("# Mine\n")
    for text, is_kept in (("# Mine, no licence\n", True), (ours, False)):
        (checkpoint / CARD).write_text(text)
        assert CliRunner().invoke(app, ["card", str(checkpoint), "-q"]).exit_code == 0
        assert ((checkpoint / CARD).read_text() == text) or not is_kept
        result = push(checkpoint, MODEL)
        assert result.exit_code == 0, result.output
        assert ((hub.folder / CARD).read_text() == text) == is_kept
        assert ("README.md was edited" in result.output) == ("no licence is known" in result.output) == is_kept


def test_what_is_refused(
    hub: Hub, checkpoint: Path, converted: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, unfinished, linked = tmp_path / "damaged", tmp_path / "unfinished", tmp_path / "linked"
    for copy in (damaged, unfinished, linked):
        shutil.copytree(checkpoint, copy)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    (unfinished / JOURNAL).write_text("")
    (linked / "out.txt").symlink_to("/etc/hostname")
    for arguments, words in (
        ((damaged, MODEL), ("is damaged", "has other bytes", "--repair")),
        ((unfinished, MODEL), ("not finished",)),
        ((linked, MODEL), ("out.txt", "leads out")),
        ((tmp_path, MODEL), ("not a converted checkpoint",)),
        ((checkpoint, "model"), ("OWNER/NAME",)),
        ((checkpoint,), ("OWNER/NAME",)),
        ((checkpoint, "a", MODEL), ("OWNER/NAME",)),
    ):
        result = push(*arguments, "-q")
        assert result.exit_code == 2 and "Traceback" not in result.output, (arguments, result.output)
        assert all(word in " ".join(result.output.split()) for word in words), (arguments, result.output)
    hub.refuses = True
    assert "hf auth login" in push(checkpoint, MODEL, "-q").output
    hub.refuses = False
    with monkeypatch.context() as patch:
        patch.setattr(Hub, "private", property(lambda self: False, lambda self, value: None), raising=False)
        result = push(checkpoint, MODEL, "--private", "-q")
    assert result.exit_code == 2 and "is public already" in result.output
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = push(checkpoint, MODEL, "-q")
    assert result.exit_code == 2 and "hf auth login" in result.output
    assert not hub.commits and not list(hub.folder.iterdir())
