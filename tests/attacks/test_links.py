"""Attack: links in a source that lead out of it, so that a machine's files end up in a checkpoint to be published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.errors import SpikeconvError
from spikeconv.sources.companions import copy_companions
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "id_rsa").write_text("secret")
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return folder


def test_no_link_leads_out(tmp_path: Path, secret: Path, source_copy: Callable[[], Path]) -> None:
    for name, to in (
        ("notes.txt", secret / "id_rsa"),
        ("notes.txt", Path("../home/id_rsa")),
        ("assets", secret),
        ("code/deep.py", secret / "id_rsa"),
        ("tokenizer_config.json", secret / "id_rsa"),
        ("config.json", secret / "config.json"),
        ("notes.txt", Path("/dev/zero")),
        ("notes.txt", Path("nothing")),
        ("notes.txt", Path("notes.txt")),
    ):
        source = source_copy()
        place = source / name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(to)
        with pytest.raises(SpikeconvError, match=r"leads out of|leads nowhere") as refused:
            HfSource(source)
        assert str(place) in str(refused.value)
        (tmp_path / "out").mkdir(exist_ok=True)
        if name != "config.json":  # written anew
            with pytest.raises(SpikeconvError):
                copy_companions(source, tmp_path / "out")
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "secret" in path.read_text()]


def test_a_link_put_there_meanwhile(tmp_path: Path, secret: Path, source_copy: Callable[[], Path]) -> None:
    source = source_copy()
    HfSource(source)
    (source / "late.txt").symlink_to(secret / "id_rsa")
    (tmp_path / "out").mkdir()
    with pytest.raises(SpikeconvError, match="leads out of"):
        copy_companions(source, tmp_path / "out")


def test_the_blobs_of_the_hubs_cache_are_no_way_out(tmp_path: Path, source_copy: Callable[[], Path]) -> None:
    """A snapshot links to its own blobs; those of another model are strangers."""
    plain = source_copy()
    snapshot, blobs = tmp_path / "models--a--b/snapshots/1234", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(plain.iterdir())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    HfSource(snapshot)
    (tmp_path / "out").mkdir()
    copy_companions(snapshot, tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (plain / "tokenizer.json").read_bytes()
    (tmp_path / "models--c--d/blobs").mkdir(parents=True)
    (tmp_path / "models--c--d/blobs/0").write_text("private")
    (snapshot / "notes.txt").symlink_to("../../../models--c--d/blobs/0")
    with pytest.raises(SpikeconvError, match="leads out of"):
        HfSource(snapshot)


def test_weights_may_be_links(tmp_path: Path, source_copy: Callable[[], Path]) -> None:
    """Nothing but tensors is read from them, and they are not copied."""
    source = source_copy()
    (source / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (source / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    assert HfSource(source).names()
