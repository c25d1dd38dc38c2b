"""How the tensors of a checkpoint get into one of vLLM's linears: each whole, at its place, and none left out.

vLLM reports no missing tensor of a quantized model, and its loaders take a part of one that is too long.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError

__all__ = ["Arrivals", "Part"]

Load = Callable[..., None]


class Part(NamedTuple):
    """Rows of one member that a rank holds.

    Attributes:
        whole: rows of the member in the checkpoint.
        rows: how many of them this rank has.
        there: the first of them in the checkpoint.
        here: the same in the rank's tensor.
    """

    whole: int
    rows: int
    there: int
    here: int


class Arrivals:
    """What came of one linear's tensors, and what must come.

    Args:
        name: of the linear, for what is told.
        parts: of each member, by vLLM's shard id (None: there is one member).
    """

    def __init__(self, name: str, parts: Mapping[Any, Part]) -> None:
        self.name, self.parts = name, parts
        self._came: set[tuple[str, Any]] = set()
        self._expected: set[tuple[str, Any]] = set()

    def into_rows(self, kind: str, axis: int) -> Load:
        """A loader of a tensor whose `axis` holds the outputs of all members, side by side; `kind` is its name."""
        self._expected |= {(kind, shard) for shard in self.parts}

        def load(parameter: Tensor, loaded: Tensor, shard: Any = None) -> None:
            part, shape = self._part(kind, shard), list(parameter.shape)
            shape[axis] = part.whole
            self._check(kind, loaded, tuple(shape), parameter.dtype)
            rows = loaded.narrow(axis, part.there, part.rows)
            parameter.data.narrow(axis, part.here, part.rows).copy_(rows)
            self._came.add((kind, shard))

        return load

    def into_shared(self, kind: str) -> Load:
        """A loader of a tensor of the input, which all members have: the same in each."""
        self._expected |= {(kind, shard) for shard in self.parts}

        def load(parameter: Tensor, loaded: Tensor, shard: Any = None) -> None:
            self._part(kind, shard)
            self._check(kind, loaded, tuple(parameter.shape), parameter.dtype)
            known = any(other == kind for other, _ in self._came)
            if known and not torch.equal(parameter.data, loaded.to(parameter.device)):
                raise SpikeconvError(
                    f"{self.name}.{kind} is not the same in all linears that share its input; the checkpoint is "
                    "damaged, convert it again."
                )
            parameter.data.copy_(loaded)
            self._came.add((kind, shard))

        return load

    def check_whole(self) -> None:
        """Refuse a linear of which something is missing.

        Raises:
            SpikeconvError: naming the tensor.
        """
        for kind, shard in sorted(self._expected - self._came, key=str):
            of = "" if shard is None else f" (part {shard})"
            raise SpikeconvError(f"The checkpoint lacks {self.name}.{kind}{of}; copy or convert the checkpoint again.")

    def _part(self, kind: str, shard: Any) -> Part:
        if shard not in self.parts:
            raise SpikeconvError(f"{self.name}.{kind}: {shard!r} is no part of it; expected {list(self.parts)}.")
        return self.parts[shard]

    def _check(self, kind: str, loaded: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        fits = loaded.dtype == dtype or (loaded.is_floating_point() and dtype.is_floating_point and kind == "weight")
        if tuple(loaded.shape) != shape or not fits:
            raise SpikeconvError(
                f"{self.name}.{kind} is {loaded.dtype} {list(loaded.shape)}; expected {dtype} {list(shape)}: copy or "
                "convert the checkpoint again."
            )
