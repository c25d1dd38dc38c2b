"""What an engine was made of: it is good as long as all of that is the same."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from spikeconv.engine.head import head_of
from spikeconv.nn import Cells, version_of
from spikeconv.nn.plan import GroupPlan

__all__ = ["Held", "head_tables"]


class Held:
    """The places of a plan, each with what it had, and tensors that were copied in the state that they were in.

    Args:
        plans: of all groups.
        own: more places: a dictionary, and the name of what is in it.
        copied: tensors in one of these places whose numbers were copied, or may have been.
        head: the output head, which is a place and copied too; None: there is none.
    """

    def __init__(
        self, plans: Iterable[GroupPlan], own: Iterable[tuple[dict[str, Any], str]], copied: list[Tensor], head: Any
    ) -> None:
        heads = [] if head is None else [(head._parameters, name) for name in ("weight", "bias")]
        self._cells = Cells([*(key for plan in plans for key in plan.cells.keys), *own, *heads])
        weights = copied if head is None else [*copied, head.weight]
        self._copied = [(weight, version_of(weight)) for weight in weights]

    def hold(self) -> bool:
        """Whether everything still is what it was."""
        return self._cells.hold() and all(version_of(weight) == version for weight, version in self._copied)


def head_tables(head: Any, bits: int | None) -> list[Tensor | None]:
    """Weight, scale and bias of an output head as native calls take them (see `head_of`); None: there is none."""
    if head is None:
        return [None, None, None]
    return [*head_of(head.weight, bits)[:2], None if head.bias is None else head.bias.detach()]
