"""What the inputs and weights of a float model look like, with one decoder layer of it in memory.

The whole forward pass of the family's own model runs, so that nothing of an architecture is told twice: each layer's
tensors are read when it is entered and let go when it is left. Sums over tokens are in float64, in a fixed order.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.calibrate.balance import GroupStatistics
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear, find_family, own_name
from spikeconv.models.adopt import adopt
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import build_unloaded, hf_config

__all__ = ["input_statistics"]

BATCH_TOKENS = 4096
"""Tokens that are run at once; every batch reads the source once more."""

CHUNK = 256
"""Rows that are squared in float64 at once."""


def input_statistics(
    source: Source,
    windows: Tensor,
    groups: Collection[str],
    *,
    batch_tokens: int = BATCH_TOKENS,
    track: Track = silent,
) -> dict[str, GroupStatistics]:
    """The statistics of some groups of linears on a text, by group.

    Args:
        source: a float source.
        windows: token ids [windows, tokens].
        groups: names of groups of the family's layout.
        batch_tokens: tokens that are run at once; windows are not split.
        track: progress display.

    Raises:
        SpikeconvError: the input of a group is not finite.
    """
    config = hf_config(source.config)
    family = find_family(source.config)
    whole: Any = adopt(build_unloaded(config))
    model: Any = whole.base_model
    reader = _Reader(source, model, {first: other for other, first in whole.all_tied_weights_keys.items()})
    names = {own_name(model, stack.layers): stack for stack in family.stacks}
    layers = [layer for name in names for layer in model.get_submodule(name)]
    reader.load(model, apart=layers)
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, _: reader.load(module))
        layer.register_forward_hook(lambda module, *_: reader.release(module))
    sums: dict[str, _Sums] = {}
    for linear in family.layout(config):
        if linear.group not in groups:
            continue
        if linear.group not in sums:
            sums[linear.group] = _Sums(linear, model)
            module = model.get_submodule(own_name(model, linear.name))
            module.register_forward_pre_hook(partial(_see, sums[linear.group]))
        sums[linear.group].members.append(own_name(model, linear.name))
    batches = windows.split(max(1, batch_tokens // windows.shape[1]))
    with torch.no_grad():
        for ids in track(batches, "reading the calibration text", len(batches)):
            model(ids, use_cache=False)
    return {group: each.result() for group, each in sums.items()}


class _Reader:
    """Gives modules of a model their tensors, in float32, and takes them away."""

    def __init__(self, source: Source, model: Any, tied: dict[str, str]) -> None:
        self._source, self._held, self._tied = source, set(source.names()), tied
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
        """What the source calls it; of a tied pair it may hold either."""
        full = f"{self._prefix}{name}"
        return next((each for each in (full, name, self._tied.get(full)) if each in self._held), None)


def _tensors(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    parameters = [(module._parameters, name) for name, tensor in module._parameters.items() if tensor is not None]
    buffers = [(module._buffers, name) for name in module._buffers if name not in module._non_persistent_buffers_set]
    return [*parameters, *buffers]


class _Sums:
    """Sums over the tokens that one group has seen, and over its weights, which are looked at once."""

    def __init__(self, linear: ModuleLinear, model: Any) -> None:
        self.members: list[str] = []
        self._linear, self._model = linear, model
        self._center = own_name(model, linear.center) if linear.center else None
        self._tokens, self._squares, self._weights = 0, torch.tensor(0.0), torch.tensor(0.0)

    def add(self, x: Tensor) -> None:
        """Add an input [..., n]; the weights are in memory now."""
        x = x.detach().reshape(-1, x.shape[-1])
        center = None if self._center is None else self._model.get_submodule(self._center).bias
        if not self._tokens:
            weights = (self._model.get_submodule(name).weight for name in self.members)
            self._weights = sum((_column_squares(weight) for weight in weights), self._weights.double())
        self._squares = self._squares.double() + _column_squares(x, center)
        self._tokens += len(x)

    def result(self) -> GroupStatistics:
        """Means and sums."""
        if not self._squares.isfinite().all():
            raise SpikeconvError(f"The input of {self._linear.name} is not finite on the calibration text.")
        return GroupStatistics(self._squares / self._tokens, self._weights)


def _see(sums: _Sums, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    sums.add(arguments[0])


def _column_squares(matrix: Tensor, center: Tensor | None = None) -> Tensor:
    """Σ_r (M_ri - c_i)² [n] float64 of a matrix [rows, n], a chunk of rows at a time."""
    total = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for rows in matrix.split(CHUNK):
        values = rows.double() if center is None else rows.double() - center.double()
        total += values.square_().sum(0)
    return total
