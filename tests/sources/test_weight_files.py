"""The files of a directory that are read are those that transformers loads, whatever else lies beside them."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource
from spikeconv.sources.resolve import open_source, resolve_source

Fixture = Callable[..., Any]
MARK = "model.norm.weight"
SINGLE, INDEX, PICKLED, PICKLED_INDEX = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
STRAYS = ("consolidated.safetensors", "model.fp16.safetensors", "model-00009-of-00009.safetensors", "training_args.bin")


@pytest.fixture
def bare(tiny_checkpoint: Fixture, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint without its weights, and the weights."""
    folder = Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model"))
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    return folder, tensors


def write(folder: Path, name: str, tensors: dict[str, Tensor], mark: float) -> None:
    """Weights in one form, to be told from others by a constant norm."""
    tensors = {**tensors, MARK: torch.full_like(tensors[MARK], mark)}
    if not name.endswith(".json"):
        save(tensors, folder / name)
        return
    suffix = ".bin" if "bin" in name else ".safetensors"
    weight_map = {key: f"shard-{i % 2}-of-{mark}{suffix}" for i, key in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save({key: tensors[key] for key in tensors if weight_map[key] == shard}, folder / shard)
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save(tensors: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def test_every_mixture_is_resolved_as_transformers_does(bare: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, tensors = bare
    kinds = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
    for count in range(1, 5):
        for chosen in itertools.combinations(kinds, count):
            mixture = Path(shutil.copytree(folder, tmp_path / "-".join(chosen)))
            for stray in STRAYS:
                write(mixture, stray, tensors, 0.5)
            for name in chosen:
                write(mixture, name, tensors, kinds.index(name) + 2.0)
            loaded = AutoModelForCausalLM.from_pretrained(mixture).state_dict()
            opened = HfSource(mixture)
            assert all(torch.equal(opened.load(name), loaded[name]) for name in opened.names()), chosen
            assert opened.load(MARK)[0] == min(map(kinds.index, chosen)) + 2.0
            shutil.rmtree(mixture)


def test_a_config_may_name_the_file(bare: tuple[Path, dict[str, Tensor]], run_convert: Fixture, tmp_path: Path) -> None:
    folder, tensors = bare
    write(folder, SINGLE, tensors, 2.0)
    write(folder, "other.safetensors", tensors, 3.0)
    write(folder, "other.safetensors.index.json", tensors, 4.0)
    config = json.loads((folder / "config.json").read_text())
    for name, mark in (("other.safetensors", 3.0), ("other.safetensors.index.json", 4.0)):
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
        assert AutoModelForCausalLM.from_pretrained(folder).state_dict()[MARK][0] == mark
        assert HfSource(folder).load(MARK)[0] == mark
    run_convert(folder, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()[MARK][0] == 4.0
    for name in ("../model.safetensors", "/etc/passwd.safetensors", "weights.bin", 3):
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
        with pytest.raises(SpikeconvError, match=r"config\.json asks for the weights .*transformers_weights"):
            HfSource(folder)


def test_other_names_are_not_the_weights(bare: tuple[Path, dict[str, Tensor]]) -> None:
    folder, tensors = bare
    for stray in STRAYS:
        write(folder, stray, tensors, 1.0)
        with pytest.raises(OSError, match="no file named"):
            AutoModelForCausalLM.from_pretrained(folder)
        with pytest.raises(SpikeconvError, match=rf"holds no weights: none of .*; {stray} is not read under that name"):
            HfSource(folder)
        (folder / stray).unlink()
    write(folder, "shard-00000-model-00001-of-00002.safetensors", tensors, 1.0)
    with pytest.raises(SpikeconvError, match="shards of a distributed run"):
        HfSource(folder)


def test_shards_in_a_folder_and_names_that_are_there_twice(bare: tuple[Path, dict[str, Tensor]]) -> None:
    folder, tensors = bare
    (folder / "weights").mkdir()
    first = dict(list(tensors.items())[:5])
    rest = {name: tensor for name, tensor in tensors.items() if name not in first}
    save_file(first, folder / "weights/a.safetensors", metadata={"format": "pt"})
    save_file(rest, folder / "b.safetensors", metadata={"format": "pt"})
    places = dict.fromkeys(first, "weights/a.safetensors") | dict.fromkeys(rest, "b.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    opened, loaded = HfSource(folder), AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert set(opened.names()) == set(tensors)
    assert all(torch.equal(opened.load(name), loaded[name]) for name in opened.names())
    save_file({**rest, **first}, folder / "b.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpikeconvError, match=r"twice, in weights/a\.safetensors and b\.safetensors"):
        HfSource(folder)


def test_adapters(bare: tuple[Path, dict[str, Tensor]]) -> None:
    folder, tensors = bare
    write(folder, SINGLE, tensors, 1.0)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta/base"}))
    with pytest.raises(SpikeconvError, match=r"an adapter beside the weights \(adapter_config\.json, of meta/base\)"):
        open_source(folder)
    (folder / "config.json").unlink()
    with pytest.raises(
        SpikeconvError, match=r"holds an adapter .*, no model; merge it into its base, meta/base, first"
    ):
        open_source(folder)


def test_a_folder_around_a_file(bare: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, _ = bare
    (folder / "config.json").unlink()
    for name in ("model.gguf", "MODEL.GGUF", "model.pth"):
        (folder / name).write_bytes(b"")
        with pytest.raises(SpikeconvError, match=rf"holds no config\.json, but {name}; give that file instead"):
            open_source(folder)
        with pytest.raises(SpikeconvError, match=rf"{name} is not a readable"):
            open_source(resolve_source(str(folder / name)))
        (folder / name).unlink()


def test_home_and_brackets(
    bare: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ~ that no shell replaced is the home; what is there as it is written goes first."""
    folder, _ = bare
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_source("~/model") == folder
    with pytest.raises(SpikeconvError, match=r"~/none \(.*/none\) does not exist"):
        resolve_source("~/none")
    monkeypatch.chdir(tmp_path)
    for name in ("[red]model", "~"):
        (tmp_path / name).mkdir()
        assert resolve_source(name) == Path(name)
