"""Models of the hub come shard by shard, when they are read, from a server of our own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, MODEL, Hub, serve
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from spikeconv.checkpoint.folder import source_path
from spikeconv.cli.app import app
from spikeconv.errors import SpikeconvError
from spikeconv.sources import hub_source
from spikeconv.sources.resolve import open_named

Fixture = Callable[..., Any]


@pytest.fixture
def hub(tiny_checkpoint: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A tiny model in several shards on the hub."""
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2")).save_pretrained(
        tmp_path / "there", max_shard_size="20KB"
    )
    (tmp_path / "there" / "tokenizer_config.json").write_text("{}")
    with serve(tmp_path / "there", tmp_path / "cache", monkeypatch) as served:
        yield served


def blobs(cache: Path) -> set[int]:
    """Sizes of what lies in the cache."""
    return {path.stat().st_size for path in cache.rglob("*") if path.is_file() and not path.is_symlink()}


def convert(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["convert", MODEL, *arguments])


def test_headers_first_then_shard_by_shard(hub: Hub, tmp_path: Path, run_convert: Fixture) -> None:
    shards = [path.name for path in sorted(hub.folder.glob("*.safetensors"))]
    source = open_named(MODEL)
    assert len(shards) > 2 and not set(shards) & set(hub.fetched)
    assert source.path.name == COMMIT and source.size() == sum((hub.folder / name).stat().st_size for name in shards)
    source.load("model.norm.weight")
    (own,) = (name for name in shards if source.file_of("model.norm.weight") == name)
    assert next(name for name in hub.fetched if name in shards) == own
    result = convert("-o", str(tmp_path / "out"), "--jobs", "1", "--quiet")
    assert result.exit_code == 0, result.output
    assert sorted(name for name in hub.fetched if name in shards) == shards  # each once
    run_convert(hub.folder, tmp_path / "local")
    for name in ("model.safetensors", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    found, local = (json.loads((tmp_path / name / "spikeconv.json").read_text()) for name in ("out", "local"))
    assert found["source"]["tensors"] == local["source"]["tensors"]


def test_shards_that_are_deleted(hub: Hub, tmp_path: Path, run_convert: Fixture) -> None:
    """QuaRot folds norms into weights of other shards: what is small is kept."""
    shards = {path.name: path.stat().st_size for path in hub.folder.glob("*.safetensors")}
    most = []

    class Watching(hub_source._Shard):
        def release(self) -> None:
            most.append(len(blobs(tmp_path / "cache") & set(shards.values())))
            super().release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_source, "_Shard", Watching)
        result = convert(
            *("-o", str(tmp_path / "out"), "--jobs", "1", "--quiet", "--rotation", "quarot", "--delete-source-shards")
        )
    assert result.exit_code == 0, result.output
    assert len(most) == len(shards) and max(most) <= 3  # the one that is read, its predecessor, the next
    assert not blobs(tmp_path / "cache") & set(shards.values())
    assert sorted(name for name in hub.fetched if name in shards) == sorted(shards)
    run_convert(hub.folder, tmp_path / "local", rotation="quarot")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "local/model.safetensors").read_bytes()
    with pytest.raises(SpikeconvError, match=r"has lost its weights .*; name it with --source"):
        source_path(tmp_path / "out")
    before = open_named(MODEL)  # and a shard that was here before stays
    before.load("model.norm.weight")
    kept = before.file_of("model.norm.weight")
    result = convert("-o", str(tmp_path / "out"), "--force", "--quiet", "--delete-source-shards")
    assert result.exit_code == 0, result.output
    assert [path.name for path in before.path.glob("*.safetensors")] == [kept]


def test_hub_that_goes_away(hub: Hub, tmp_path: Path) -> None:
    """What was converted stays, and the same command goes on."""
    shards = [path.name for path in sorted(hub.folder.glob("*.safetensors"))]
    last = open_named(MODEL).file_of("model.norm.weight")

    class Refusing(hub_source._Shard):
        def _fetch(self) -> Any:
            if self.name == last:
                hub.broken = {self.name}
            return super()._fetch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_source, "_Shard", Refusing)
        result = convert("-o", str(tmp_path / "out"), "--jobs", "1", "--quiet")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "same command goes on" in result.output, result.output
    fetched = hub.fetched.copy()
    hub.broken = set()
    result = convert("-o", str(tmp_path / "out"), "--jobs", "1")
    assert result.exit_code == 0 and "Going on with" in result.output
    assert [name for name in hub.fetched[len(fetched) :] if name in shards] == [last]


def test_refused(hub: Hub, tmp_path: Path, tiny_checkpoint: Fixture) -> None:
    for more in (("--weights", "gptq"), ("--balance", "sqrt"), ("--clip-quantile", "0.5"), ("--budget", "spikes=1")):
        result = convert("-o", str(tmp_path / "out"), "--quiet", "--delete-source-shards", *more)
        assert result.exit_code == 2 and "reads the source more than once" in " ".join(result.output.split()), more
    with pytest.raises(SpikeconvError, match="deletes nothing else"):
        open_named(str(tiny_checkpoint("qwen2")), delete_shards=True)
    with pytest.raises(SpikeconvError, match=r"The hub has no model nobody/nothing.*hf auth login.*local directory"):
        open_named("nobody/nothing")
    (name, *_) = sorted(path.name for path in hub.folder.glob("*.safetensors"))
    whole = (hub.folder / name).read_bytes()
    (hub.folder / name).write_bytes(b"\xff" * 8 + whole[8:])
    with pytest.raises(SpikeconvError, match="no readable safetensors file"):
        open_named(MODEL)
    hub.gated = True
    with pytest.raises(SpikeconvError, match=r"is gated.*hf auth login.*local directory.*`spikeconv convert` alone"):
        open_named(MODEL)
