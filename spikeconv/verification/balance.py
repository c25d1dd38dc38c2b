"""Balances a float model in place by the factors of a checkpoint: what the conversion must have started from."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.loading import parse_dtype
from spikeconv.sources.balanced import BalancedSource
from spikeconv.sources.base import Source
from spikeconv.sources.model import ModelSource

__all__ = ["balance_model"]


def balance_model(model: Any, source: Source, diagonals: Mapping[str, Tensor], dtype: str) -> None:
    """Fold factors into a float model.

    Args:
        model: in float32.
        source: where it was read from; it knows the dtypes.
        diagonals: d [n] by group.
        dtype: name of the dtype that what stays float was converted to, or auto.

    Raises:
        SpikeconvError: the factors are not those of this model, or cannot be factors.
    """
    layout = family_of(model).layout(model.config.get_text_config())
    sizes = {linear.group: model.get_submodule(linear.name).in_features for linear in layout}
    for group, d in diagonals.items():
        if sizes.get(group) != d.numel() or d.dim() != 1 or not (d > 0).all() or not d.isfinite().all():
            raise SpikeconvError(f"The factors of {group} do not fit the model; copy or convert the checkpoint again.")
    if not any(linear.folds for linear in layout if linear.group in diagonals):
        return  # the encoders multiply by them
    balanced = BalancedSource(_Read(model, source), layout, diagonals, parse_dtype(dtype), _weights(layout))
    with torch.no_grad():
        found = {name: balanced.load(name) for name in balanced.touched()}
        for name, tensor in found.items():
            model.get_parameter(name).copy_(tensor)


def _weights(layout: list[Any]) -> set[str]:
    """All weights of linears come exactly; those that stay float are rounded when they are compared."""
    return {f"{linear.name}.{kind}" for linear in layout for kind in ("weight", "bias")}


class _Read(ModelSource):
    """A model that another program read from a source: its tensors, with the dtypes of the source."""

    def __init__(self, model: Any, source: Source) -> None:
        super().__init__(model)
        self._dtypes = {name: source.dtype(name) for name in source.names()}

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor as the conversion read it."""
        return self._dtypes[name]
