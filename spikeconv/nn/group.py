"""Linears that see the same input (q, k, v; gate, up): encoded once, multiplied at once."""

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikeconv.config import LinearScheme
from spikeconv.errors import SpikeconvError
from spikeconv.nn.encoder import CALIBRATED, Encoder, FoldedNorm
from spikeconv.nn.gradients import flow, version_of
from spikeconv.nn.offload import HOOK, brought_back, is_away
from spikeconv.nn.plan import GroupPlan, plan_of
from spikeconv.nn.products import differentiable_outputs, outputs_of
from spikeconv.ops.native import run_group

if TYPE_CHECKING:
    from spikeconv.nn.linear import SpikeLinear

__all__ = ["SpikeGroup", "check_shared"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


_Last = tuple["weakref.ref[Tensor]", tuple[Any, ...], "dict[SpikeLinear, tuple[Tensor, int]]"]
"""The latest input (held weakly, so that it is not kept alive), what else was the case, and the outputs not yet fetched
with the versions of their linear's tensors."""


class SpikeGroup:
    """The linears of one input, which agree on the scheme of their weights and counts.

    The first member to be called computes the outputs of all, the others are handed theirs. Members called with
    another tensor, or with one that was changed in place since, compute anew, as do those whose own tensors or settings
    changed, so sharing never changes a result. (Inference tensors, and the tensors that a compiler traces with, carry
    no version: a change in place between two members goes unseen there. No supported model makes one.)
    """

    def __init__(
        self, in_features: int, scheme: LinearScheme, norm: FoldedNorm | None = None, center: Any = None
    ) -> None:
        self.encoder = Encoder(in_features, scheme, norm, center)
        self.members: list[SpikeLinear] = []
        self.zero_share = 0.0  # measured share of zero counts; 0 until it is measured
        self._last: _Last | None = None
        self._plan: GroupPlan | None = None
        self._traced: tuple[Tensor, bool, dict[SpikeLinear, Tensor]] | None = None
        self._away: tuple[weakref.ref[Tensor], int | None, set[SpikeLinear]] | None = None

    def forget(self) -> None:
        """Drop what was computed and prepared, and with it the tensors that it holds."""
        self._last = self._plan = self._traced = None

    def output(self, member: "SpikeLinear", x: Tensor) -> Tensor:
        """The output of one member for x [..., in_features]."""
        if HOOK in member.__dict__ and any(map(is_away, self._modules())):
            return self._alone(member, x)
        if len(self.members) < 2:
            return self.products(x, [member])[0]
        if torch.compiler.is_compiling():
            return self._traced_output(member, x)
        encoder = self.encoder
        version = version_of(x)
        state = version, x.requires_grad, torch.is_grad_enabled(), encoder.codec, encoder.rotation
        last = self._last
        if last is not None and last[0]() is x and last[1] == state:
            waiting = last[2].pop(member, None)  # another thread may have taken it
            if waiting is not None and waiting[1] == member.versions():
                if not last[2]:
                    self._last = None
                return waiting[0]
        computed = dict(zip(self.members, self.products(x, self.members), strict=True))
        y = computed.pop(member)
        outputs = {other: (output, other.versions()) for other, output in computed.items()}
        self._last = weakref.ref(x), state, outputs
        return y

    def _traced_output(self, member: "SpikeLinear", x: Tensor) -> Tensor:
        """As `output`, in terms that a compiler traces, so that the graph has one encode for the group."""
        traced, trains = self._traced, torch.is_grad_enabled()
        if traced is None or traced[0] is not x or traced[1] != trains or member not in traced[2]:
            traced = x, trains, dict(zip(self.members, self.products(x, self.members), strict=True))
        y = traced[2].pop(member)
        self._traced = traced if traced[2] else None
        return y

    def _modules(self) -> "tuple[torch.nn.Module | None, ...]":
        return *self.members, self.encoder.norm, self.encoder.center

    def _alone(self, member: "SpikeLinear", x: Tensor) -> Tensor:
        """The output of one member whose group is not in memory at once; nothing that was prepared is kept."""
        encoder, version = self.encoder, version_of(x)
        if self._away is None or self._away[0]() is not x or self._away[1] != version or member in self._away[2]:
            self._away = weakref.ref(x), version, set()
        told = encoder.observers, encoder.readers
        if self._away[2]:  # the group encodes once for all, so whoever watches is told once
            encoder.observers, encoder.readers = [], []
        self._away[2].add(member)
        try:
            with brought_back((member, encoder.norm, encoder.center, *encoder.held_by.values())):
                y = self.products(x, [member])[0]
        finally:
            encoder.observers, encoder.readers = told
        self.forget()
        return y

    def products(self, x: Tensor, members: "list[SpikeLinear]") -> list[Tensor]:
        """Encode x and multiply it by the weights of some members."""
        outputs = self._products(self.encoder.centered(x), members)
        return [y.to(x.dtype) for y in outputs] if self.encoder.prepares else outputs

    def _products(self, x: Tensor, members: "list[SpikeLinear]") -> list[Tensor]:
        if torch.is_grad_enabled() and self._trains(x, members):
            return differentiable_outputs(self.encoder, members, x)
        if self._takes_plan(x, members) and (plan := self.plan()) is not None:
            return run_group(x, plan.arguments)
        return outputs_of(members, self.encoder.encode(x), x.dtype)

    def _trains(self, x: Tensor, members: "list[SpikeLinear]") -> bool:
        """Whether gradients are wanted of anything that goes in."""
        norm = self.encoder.norm
        return flow(x, None if norm is None else norm.weight, *(t for m in members for t in (m.weight, m.bias)))

    def _takes_plan(self, x: Tensor, members: "list[SpikeLinear]") -> bool:
        return (
            len(members) == len(self.members)
            and not self.encoder.is_watched
            and not torch.compiler.is_compiling()
            and type(x) is Tensor  # not a fake tensor or the like
            and x.is_cpu
            and x.dtype in FLOATS
        )

    def plan(self) -> GroupPlan | None:
        """What runs the whole group in one native call on the CPU; None where its steps must run one by one.

        Hold on to it while the call runs: another thread may make a new one meanwhile.
        """
        plan = self._plan
        if plan is None or not plan.holds(self):
            plan = self._plan = plan_of(self)
        return plan

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_plan": None, "_traced": None, "_away": None}


def check_shared(model: nn.Module) -> None:
    """Refuse a model with linears that share an encode but hold different thresholds or factors for it.

    Raises:
        SpikeconvError: two differ.
    """
    first: dict[tuple[int, str], tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        group = getattr(module, "group", None)
        for kind in CALIBRATED:
            tensor = module._buffers.get(kind)
            if tensor is None or tensor.is_meta or not isinstance(group, SpikeGroup):
                continue
            other, expected = first.setdefault((id(group), kind), (name, tensor))
            here, there = tensor.cpu(), expected.cpu()
            if not torch.equal(here, there):
                differ = here != there
                raise SpikeconvError(
                    f"{name}.{kind} is {here[differ][:1].tolist()}, that of {other}, which shares its input, "
                    f"{there[differ][:1].tolist()}; expected the same number. The checkpoint is damaged; convert it "
                    "again."
                )
