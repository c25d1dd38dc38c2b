"""Which files of a Hugging Face directory hold its weights: those that transformers would load, and no others.

The order is that of `transformers.modeling_utils._get_resolved_checkpoint_files` (5.24): a file that `config.json`
names in `transformers_weights`, `model.safetensors`, its index, `pytorch_model.bin`, its index. Files of variants
(`model.fp16.safetensors`) and whatever else lies beside are not the weights.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.sources.json_file import read_json
from spikeconv.untrusted import shorten

__all__ = ["ADAPTER", "EXPLICIT_WEIGHTS", "INDEX", "SINGLE", "WeightFiles", "adapter_base", "find_weight_files"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
EXPLICIT_WEIGHTS = "transformers_weights"
"""Field of `config.json` that names the file or index of weights."""
ADAPTER = "adapter_config.json"
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """The files of weights by their names below the directory, and the shard of each tensor if an index says it."""

    files: dict[str, Path]
    index: Path | None = None
    shard_of: dict[str, str] | None = None


def find_weight_files(folder: Path, config: dict[str, Any], coming: Collection[str] = ()) -> WeightFiles:
    """The files that transformers would load from a directory with that `config.json`.

    Args:
        folder: the directory.
        config: the parsed file.
        coming: names of files that belong there but are not there yet.

    Raises:
        SpikeconvError: there are none, they are a distributed run's, a shard is missing or lies outside, or an
            adapter beside the weights would be applied to them.
    """
    if (folder / ADAPTER).is_file():
        raise SpikeconvError(
            f"{folder} holds an adapter beside the weights ({ADAPTER}, of {adapter_base(folder)}), which would be left "
            "out; merge it into them first (peft: merge_and_unload), or convert a copy without the adapter's files."
        )
    if any(DISTRIBUTED.fullmatch(path.name) for path in folder.iterdir()):
        raise SpikeconvError(f"{folder} holds the shards of a distributed run; save the model with save_pretrained.")
    explicit = config.get(EXPLICIT_WEIGHTS)
    names = (SINGLE, INDEX, PICKLED, PICKLED_INDEX) if explicit is None else (_explicit(folder, explicit),)
    chosen = next((folder / name for name in names if name in coming or _is_file(folder / name)), None)
    if chosen is None:
        raise SpikeconvError(_nothing(folder, names))
    return _shards(folder, chosen, coming) if chosen.name.endswith(".json") else WeightFiles({chosen.name: chosen})


def adapter_base(folder: Path) -> str:
    """What the adapter in a directory says it belongs to."""
    return str(read_json(folder / ADAPTER).get("base_model_name_or_path") or "an unnamed model")


def _explicit(folder: Path, name: object) -> str:
    if isinstance(name, str) and name.endswith((".safetensors", ".safetensors.index.json")) and _inside(name):
        return name
    raise SpikeconvError(
        f"{folder / 'config.json'} asks for the weights {name!r} ({EXPLICIT_WEIGHTS}); expected a .safetensors "
        "file or index in the directory."
    )


def _nothing(folder: Path, names: tuple[str, ...]) -> str:
    found = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    others = f"; {', '.join(found[:3])} {'is' if len(found) == 1 else 'are'} not read under that name" if found else ""
    return f"{folder} holds no weights: none of {', '.join(names)}, which is where transformers looks{others}."


def _shards(folder: Path, index: Path, coming: Collection[str]) -> WeightFiles:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SpikeconvError(f"{index} has no weight_map; expected tensor names mapped to shards.")
    shard_of = {str(name): str(shard) for name, shard in weight_map.items()}
    files = {shard: folder / shard for shard in dict.fromkeys(shard_of.values())}
    for shard, path in files.items():
        if not _inside(shard):
            raise SpikeconvError(f"{index} names the shard {shorten(shard)!r}, outside the directory; not read.")
        if shard not in coming and not _is_file(path):
            raise SpikeconvError(f"{index} names the shard {shorten(shard)}, which is missing.")
    return WeightFiles(files, index, shard_of)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False


def _inside(name: str) -> bool:
    """Whether a relative path stays below the directory it starts from, on any system."""
    return not Path(name).is_absolute() and ".." not in re.split(r"[/\\]", name)
