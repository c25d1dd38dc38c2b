"""What the inputs and weights of a float model look like, with one decoder layer of it in memory.

Sums over tokens are in float64, in a fixed order.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.calibrate.balance import GroupStatistics
from spikeconv.calibrate.streamed import BATCH_TOKENS, constant_of, run_streamed, streamed_model
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear, find_family
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config

__all__ = ["input_statistics"]

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
    config, model = hf_config(source.config), streamed_model(source)
    family = find_family(source.config)
    sums: dict[str, _Sums] = {}
    for linear in family.layout(config):
        if linear.group not in groups:
            continue
        if linear.group not in sums:
            sums[linear.group] = _Sums(linear, model, constant_of(source, linear))
            module = model.get_submodule(linear.name)
            module.register_forward_pre_hook(partial(_see, sums[linear.group]))
        sums[linear.group].members.append(linear.name)
    run_streamed(model, windows, batch_tokens, "reading the calibration text", track)
    return {group: each.result() for group, each in sums.items()}


class _Sums:
    """Sums over the tokens that one group has seen, and over its weights, which are looked at once."""

    def __init__(self, linear: ModuleLinear, model: Any, center: Tensor | None) -> None:
        self.members: list[str] = []
        self._linear, self._model = linear, model
        self._center = center
        self._tokens, self._inputs, self._weights = 0, _Columns(), _Columns()

    def add(self, x: Tensor) -> None:
        """Add an input [..., n]; the weights are in memory now."""
        x = x.detach().reshape(-1, x.shape[-1])
        if not self._tokens:
            for name in self.members:
                self._weights.add(self._model.get_submodule(name).weight)
        self._inputs.add(x, self._center)
        self._tokens += len(x)

    def result(self) -> GroupStatistics:
        """Means and sums."""
        inputs, weights = self._inputs, self._weights
        if not inputs.squares.isfinite().all():
            raise SpikeconvError(f"The input of {self._linear.name} is not finite on the calibration text.")
        return GroupStatistics(inputs.squares / self._tokens, weights.squares, inputs.peaks, weights.peaks)


def _see(sums: _Sums, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    sums.add(arguments[0])


class _Columns:
    """Of the columns of matrices [rows, n] that are looked at one after the other, a chunk of rows at a time.

    Attributes:
        squares: Σ_r (M_ri - c_i)² [n] float64.
        peaks: max_r |M_ri - c_i| [n] float64.
    """

    def __init__(self) -> None:
        self.squares, self.peaks = (torch.zeros((), dtype=torch.float64) for _ in range(2))

    def add(self, matrix: Tensor, center: Tensor | None = None) -> None:
        total = torch.zeros(matrix.shape[1], dtype=torch.float64)
        for rows in matrix.split(CHUNK):
            values = rows.double() if center is None else rows.double() - center.double()
            self.peaks = torch.maximum(self.peaks, values.abs().amax(0))
            total += values.square_().sum(0)
        self.squares = self.squares + total
