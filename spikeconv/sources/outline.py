"""A model of which only the configuration is here: names, shapes and dtypes of its tensors, to plan with."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source
from spikeconv.sources.companions import WEIGHTS
from spikeconv.sources.hub import cached_snapshot, fetch_from_hub
from spikeconv.sources.json_file import read_json
from spikeconv.sources.model_config import build_empty, hf_config, layer_counts
from spikeconv.sources.presets import model_presets
from spikeconv.sources.resolve import cached_wheel, open_source, resolve_source

__all__ = ["OutlineSource", "open_or_outline"]

CONFIG = "config.json"
MOST_LAYERS = 1024
"""Each is built: no published model is near."""


class OutlineSource(Source):
    """The tensors that a `config.json` asks for; of tensors that are tied, the first.

    Args:
        config: the parsed file.
        name: what to call the model in sentences.

    Raises:
        SpikeconvError: the configuration is not one of a supported model.
    """

    def __init__(self, config: dict[str, Any], name: str) -> None:
        self.config, self.path = config, Path(name)
        for count in layer_counts(config):
            layers = config.get(count)
            if isinstance(layers, int) and layers > MOST_LAYERS:
                why = f"{name} has {layers} layers ({count}); without weights that many are not believed."
                raise SpikeconvError(why)
        described = hf_config(config)
        self._dtype = described.dtype if isinstance(described.dtype, torch.dtype) else torch.float32
        self._shapes: dict[str, tuple[int, ...]] = {}
        seen = set()
        for tensor_name, tensor in build_empty(described).state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                self._shapes[tensor_name] = tuple(tensor.shape)

    def names(self) -> list[str]:
        """Names in the state dict."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype | str:
        """The dtype of the configuration; float32 where it names none."""
        return self._dtype

    def load(self, name: str) -> Tensor:
        """Nothing.

        Raises:
            SpikeconvError: always.
        """
        raise self._absent()

    def weight_files(self) -> list[Path]:
        """None."""
        return []

    def tokenizer(self) -> Any:
        """None.

        Raises:
            SpikeconvError: always.
        """
        raise self._absent()

    def copy_companions(self, target: Path) -> None:
        """Nothing.

        Raises:
            SpikeconvError: always.
        """
        raise self._absent()

    def origin(self) -> None:
        """It is no file."""
        return None

    def size(self) -> int:
        """Bytes of the tensors that are described."""
        return sum(torch.Size(shape).numel() for shape in self._shapes.values()) * self._dtype.itemsize

    def _absent(self) -> SpikeconvError:
        return SpikeconvError(f"{self.path} is only described here: its weights are not on this machine.")


def open_or_outline(name: str, *, trust_remote_code: bool = False, arch: str | None = None) -> Source:
    """A source, of which nothing but a configuration is fetched: where its weights are not here, it is an outline.

    Args:
        name: a preset, hub id, directory, GGUF or .pth file as elsewhere, or a `config.json`.
        trust_remote_code: whether Python code in it may run.
        arch: what a `.pth` file holds that does not tell.

    Raises:
        SpikeconvError: there is no such model, or it cannot be read.
    """
    presets = model_presets()
    path = Path(name)
    if path.exists() or name.startswith("~"):
        path = resolve_source(name)
    elif name in presets:
        preset = presets[name]
        cached = cached_wheel(preset) or cached_snapshot(preset.hub)
        if (cached is None or not _has_weights(cached)) and preset.config is not None:
            return OutlineSource(preset.config, name)
        path = cached or resolve_source(name)
    elif name.count("/") == 1:
        path = fetch_from_hub(name, (CONFIG,))
    else:
        path = resolve_source(name)
    if path.suffix == ".json" and path.is_file():
        return OutlineSource(read_json(path), name)
    if (path / CONFIG).is_file() and not _has_weights(path):
        return OutlineSource(read_json(path / CONFIG), name)
    return open_source(path, trust_remote_code=trust_remote_code, arch=arch)


def _has_weights(path: Path) -> bool:
    return path.is_file() or any(WEIGHTS.fullmatch(file.name) for file in path.iterdir())
