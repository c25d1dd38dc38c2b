"""A source whose channels are balanced: the same function, with scales that have moved out of inputs into weights.

The input x of a group of linears becomes d ∘ x, and their weight W becomes W / d, column by column. So that it costs
nothing, d becomes part of what stands in front: γ of a norm, or the rows (and bias) of the linear that writes x. Where
neither is possible x and W stay as they are here, and the encoder multiplies by d (`ModuleLinear.folds`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear
from spikeconv.sources.base import Source
from spikeconv.sources.wrapped import WrappedSource

__all__ = ["BalancedSource", "writer_rows"]


class BalancedSource(WrappedSource):
    """A source with a factor for every input channel of some linears folded in.

    γ d is rounded to the dtype that the checkpoint keeps it in, and W is divided by what that γ really scales by: the
    rounding of γ is no error. Where γ is zero, the channel is, and any d will do.

    Args:
        source: the float source.
        layout: all its linears (`Family.layout`).
        diagonals: d [n] float32 by group, positive and finite.
        dtype: dtype of the tensors that stay float in the checkpoint; None: each as it is.
        exact: names of weights that come in float32, not rounded to the source's dtype: those that will be rounded to
            integers.
    """

    def __init__(
        self,
        source: Source,
        layout: Iterable[ModuleLinear],
        diagonals: Mapping[str, Tensor],
        dtype: torch.dtype | None = None,
        exact: Collection[str] = (),
    ) -> None:
        super().__init__(source)
        self._diagonals, self._dtype, self._exact = diagonals, dtype, set(exact)
        balanced = [linear for linear in layout if linear.folds and linear.group in diagonals]
        self._columns = {f"{linear.name}.weight": linear for linear in balanced}
        self._rows = {f"{linear.writer}.{kind}": linear for linear in balanced if not linear.norm for kind in PARTS}
        self._norms = {f"{linear.norm}.{kind}": linear for linear in balanced if linear.norm for kind in PARTS}

    def load(self, name: str) -> Tensor:
        """Read one tensor, balanced.

        Raises:
            SpikeconvError: the dtype that it is kept in cannot hold it.
        """
        tensor = self._source.load(name)
        if (linear := self._norms.get(name)) is not None:
            if name.endswith(".bias"):
                return self._stored(name, tensor.float() * self._scale(linear))
            return self._gamma(name, tensor, linear)
        columns, rows = self._columns.get(name), self._rows.get(name)
        if columns is None and rows is None:
            return tensor
        result = tensor.float()
        if columns is not None:
            result = result / self._scale(columns)
        if rows is not None:
            d = writer_rows(self._diagonals[rows.group], len(result), rows.head)
            result = result * (d if result.dim() == 1 else d[:, None])
        return result if name in self._exact else self._stored(name, result)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """The rows of a matrix; of one that is balanced, of all of it."""
        touched = name in self._columns or name in self._rows or name in self._norms
        return iter(self.load(name).split(rows)) if touched else super().blocks(name, rows)

    def touched(self) -> list[str]:
        """Names of the tensors that are not the source's."""
        touched = {*self._columns, *self._rows, *self._norms}
        return [name for name in self._source.names() if name in touched]

    def _scale(self, linear: ModuleLinear) -> Tensor:
        """What the input of a linear is really multiplied by, [n] float32."""
        d = self._diagonals[linear.group]
        if linear.norm is None:
            return d
        name = f"{linear.norm}.weight"
        weight = self._source.load(name)
        before = linear.norm_kind.gamma(weight.float())
        after = linear.norm_kind.gamma(self._gamma(name, weight, linear).float())
        return torch.where((before != 0) & (after != 0), after / before, d)

    def _gamma(self, name: str, weight: Tensor, linear: ModuleLinear) -> Tensor:
        """The stored weight of a norm that scales by γ d, rounded as it will be kept."""
        scaled = linear.norm_kind.gamma(weight.float()) * self._diagonals[linear.group]
        return self._stored(name, linear.norm_kind.weight(scaled))

    def _stored(self, name: str, tensor: Tensor) -> Tensor:
        """A float32 tensor rounded to the dtype of the checkpoint."""
        dtype = self._dtype or self._source.dtype(name)
        assert isinstance(dtype, torch.dtype), "a source is checked to hold floats before it is converted"
        stored = tensor.to(dtype)
        if tensor.isfinite().all() and not stored.isfinite().all():
            kind = str(dtype).removeprefix("torch.")
            raise SpikeconvError(f"{name} holds {tensor.abs().max():.3g} when it is balanced, too much for {kind}.")
        return stored

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor."""
        if name in self._columns or name in self._rows or name in self._norms:
            return torch.float32 if name in self._exact else self._dtype or self._source.dtype(name)
        return self._source.dtype(name)


PARTS = ("weight", "bias")


def writer_rows(values: Tensor, rows: int, head: int | None) -> Tensor:
    """One value for every row of the writer from those [n] of the input, which agree where a head is repeated.

    Args:
        values: by channel of the input.
        rows: of the writer.
        head: channels of a head that is repeated n / rows times as a whole, or None: n is rows.
    """
    head = head or rows
    return values.view(rows // head, len(values) // rows, head)[:, 0].reshape(rows)
