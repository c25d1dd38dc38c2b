"""Whether the files of a source leave no choice."""

from pathlib import Path

import torch
from safetensors import safe_open

from spikeconv.sources.json_file import read_json
from spikeconv.sources.weight_files import INDEX, SINGLE

__all__ = ["second_weights"]


def second_weights(source: Path) -> list[str]:
    """Tensors of which a Hugging Face directory holds two versions: in `model.safetensors` and through an index.

    transformers reads the single file, other programs the index. Which one was meant, nobody can tell from the folder.
    """
    if not (source / SINGLE).is_file() or not (source / INDEX).is_file():
        return []
    found = []
    with safe_open(source / SINGLE, framework="pt") as single:
        names = set(single.keys())
        for name, shard in sorted((read_json(source / INDEX).get("weight_map") or {}).items()):
            path = source / Path(str(shard)).name
            if path.name == SINGLE or not path.is_file():
                continue
            with safe_open(path, framework="pt") as other:
                held = set(other.keys())
                if name in held and not (
                    name in names and torch.equal(single.get_tensor(name), other.get_tensor(name))
                ):
                    found.append(name)
    return found
