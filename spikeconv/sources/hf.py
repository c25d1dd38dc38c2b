"""A Hugging Face directory as a source, read tensor by tensor (one file: `gguf`, `pth`).

Headers, index, shapes and dtypes are checked when it is opened, so that a bad file is found before anything is written.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.loading import load_tokenizer
from spikeconv.sources.base import Source
from spikeconv.sources.companions import check_companions, copy_companions
from spikeconv.sources.json_file import read_json
from spikeconv.sources.tensor_files import TensorFile, open_tensor_file
from spikeconv.sources.weight_files import WeightFiles, find_weight_files

__all__ = ["HfSource"]

GENERATION = "generation_config.json"


class HfSource(Source):
    """A directory with `config.json` and the weights that transformers would load from it.

    Args:
        path: the directory.
        trust_remote_code: whether Python code in it may run.
        coming: opens files of weights that belong there but are not there yet, by name.

    Raises:
        SpikeconvError: a file is missing or damaged, or two files hold a tensor of the same name.
    """

    def __init__(
        self,
        path: Path,
        *,
        trust_remote_code: bool = False,
        coming: Mapping[str, Callable[[], TensorFile]] | None = None,
    ) -> None:
        self.path, self.trust_remote_code = path, trust_remote_code
        self.config = read_json(path / "config.json")
        check_companions(path)
        coming = coming or {}
        self._weights = find_weight_files(path, self.config, coming)
        self._opened = {
            name: coming[name]() if name in coming else open_tensor_file(file)
            for name, file in self._weights.files.items()
        }
        self._file_of = _locate(path, self._weights, self._opened)

    def names(self) -> list[str]:
        """Tensor names in file order."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return self._file_of[name].tensors[name][0]

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor, from the header."""
        return self._file_of[name].tensors[name][1]

    def load(self, name: str) -> Tensor:
        """Read one tensor; only its pages are touched."""
        return self._file_of[name].load(name)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """Read a matrix, so many rows at a time, into one buffer."""
        return self._file_of[name].blocks(name, rows)

    def weight_files(self) -> list[Path]:
        """The safetensors or `.bin` files."""
        return list(self._weights.files.values())

    def tokenizer(self) -> Any:
        """The tokenizer of the directory."""
        return load_tokenizer(self.path, trust_remote_code=self.trust_remote_code)

    def copy_companions(self, target: Path) -> None:
        """Copy tokenizer, chat template, generation config, remote code and everything else that is not weights."""
        if (self.path / GENERATION).is_file():
            read_json(self.path / GENERATION)  # with one that cannot be read no model would load
        copy_companions(self.path, target)


def _locate(folder: Path, weights: WeightFiles, opened: dict[str, TensorFile]) -> dict[str, TensorFile]:
    """The file of every tensor; transformers reads all that the files hold, whether or not the index lists it."""
    shard_of: dict[str, str] = {}
    for shard, file in opened.items():
        for name in file.tensors:
            if name in shard_of:
                raise SpikeconvError(f"{folder} holds {name} twice, in {shard_of[name]} and {shard}; remove one.")
            shard_of[name] = shard
    for name, shard in (weights.shard_of or {}).items():
        if shard_of.get(name) != shard:
            raise SpikeconvError(f"{weights.index} places {name} in {shard}, which does not hold it.")
    return {name: opened[shard] for name, shard in shard_of.items()}
