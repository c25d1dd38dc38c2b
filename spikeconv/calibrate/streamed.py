"""A float model that runs with the parameters of one decoder layer in memory, forward and back.

The whole forward pass of the family's own model runs, so that nothing of an architecture is told twice: each layer's
tensors are read when it is entered and let go when it is left.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.families import ModuleLinear, find_family, own_name
from spikeconv.models.adopt import adopt
from spikeconv.progress import Track
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import build_unloaded, hf_config

__all__ = ["BATCH_TOKENS", "constant_of", "layers_of", "run_streamed", "streamed_model"]

BATCH_TOKENS = 4096
"""Tokens that are run at once; every batch reads the source once more."""


def streamed_model(source: Source, with_head: bool = False) -> Any:
    """The model of a float source in float32, whose `base_model` runs; what is no layer of it stays in memory.

    Args:
        source: a float source.
        with_head: also read the output head.
    """
    model: Any = adopt(build_unloaded(hf_config(source.config)))
    reader = _Reader(source, model)
    layers = layers_of(source, model)
    reader.load(model if with_head else model.base_model, apart=layers)
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, _: reader.load(module))
        layer.register_forward_hook(lambda module, *_: reader.release(module))
    return model


@torch.no_grad()
def run_streamed(model: Any, windows: Tensor, batch_tokens: int, what: str, track: Track) -> None:
    """Run a `streamed_model` over windows [windows, tokens], which are not split, so many tokens at once."""
    batches = windows.split(max(1, batch_tokens // windows.shape[1]))
    for ids in track(batches, what, len(batches)):
        model.base_model(ids, use_cache=False)


def layers_of(source: Source, model: Any) -> list[nn.Module]:
    """The layers of a source's model, in the order in which they run."""
    paths = (own_name(model, stack.layers) for stack in find_family(source.config).stacks)
    return [layer for path in paths for layer in model.get_submodule(path)]


def constant_of(source: Source, linear: ModuleLinear) -> Tensor | None:
    """The constant part [n] of a linear's input: the bias of a LayerNorm, which may be in a layer that was let go."""
    name = f"{linear.center}.bias"
    return source.load(name) if linear.center is not None and name in source.names() else None


class _Reader:
    """Gives modules of a model their tensors, in float32, and takes them away."""

    def __init__(self, source: Source, model: Any) -> None:
        self._source, self._held = source, set(source.names())
        pairs: dict[str, str] = model.all_tied_weights_keys
        self._tied = pairs | {first: other for other, first in pairs.items()}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._prefix = f"{model.base_model_prefix}."

    def load(self, root: nn.Module, apart: Collection[nn.Module] = ()) -> None:
        """Read the parameters and stored buffers of a module, but for those of some modules in it."""
        left = {id(module) for part in apart for module in part.modules()}
        for module in root.modules():
            if id(module) in left:
                continue
            for place, name in _tensors(module):
                if (found := self._find(f"{self._names[id(module)]}.{name}".lstrip("."))) is not None:
                    tensor = self._source.load(found)
                    value = tensor.float() if tensor.is_floating_point() else tensor
                    place[name] = nn.Parameter(value, requires_grad=False) if place is module._parameters else value

    def release(self, root: nn.Module) -> None:
        """Leave only shapes of the parameters."""
        for module in root.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    def _find(self, name: str) -> str | None:
        """What the source calls it, with or without the prefix; of a tied pair it may hold either."""
        possible = (name, name.removeprefix(self._prefix), self._tied.get(name))
        return next((each for each in possible if each in self._held), None)


def _tensors(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    parameters = [(module._parameters, name) for name, tensor in module._parameters.items() if tensor is not None]
    buffers = [(module._buffers, name) for name in module._buffers if name not in module._non_persistent_buffers_set]
    return [*parameters, *buffers]
