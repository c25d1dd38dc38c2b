"""Linears that see the same input (q, k, v; gate, up): encoded once, multiplied at once."""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.config import LinearScheme
from spikeconv.errors import SpikeconvError
from spikeconv.nn.encoder import Encoder, FoldedNorm
from spikeconv.nn.offload import HOOK, brought_back, is_away
from spikeconv.nn.plan import GroupPlan, operands_of, plan_of
from spikeconv.ops.native import run_group

if TYPE_CHECKING:
    from spikeconv.nn.linear import SpikeLinear

__all__ = ["SpikeGroup", "check_thresholds"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class _Last(NamedTuple):
    """The latest input (held weakly, so that it is not kept alive) and the outputs not yet fetched.

    The input is known by identity, version and whether gradients flow; a member's tensors by their versions.
    """

    source: "weakref.ref[Tensor]"
    version: int | None
    has_gradients: bool
    outputs: "dict[SpikeLinear, tuple[Tensor, int]]"


class SpikeGroup:
    """The linears of one input, which agree on the scheme of their weights and counts.

    The first member to be called computes the outputs of all, the others are handed theirs. Members called with
    another tensor, or with one that was changed in place since, compute anew, as do those whose own tensors or settings
    changed, so sharing never changes a result. (Inference tensors carry no version: a change in place between two
    members goes unseen there. No supported model makes one.)
    """

    def __init__(
        self, in_features: int, scheme: LinearScheme, norm: FoldedNorm | None = None, center: Any = None
    ) -> None:
        self.encoder = Encoder(in_features, scheme, norm, center)
        self.members: list[SpikeLinear] = []
        self.zero_share = 0.0  # measured share of zero counts; 0 until it is measured
        self._last: _Last | None = None
        self._plan: GroupPlan | None = None

    def forget(self) -> None:
        """Drop what was computed and prepared, and with it the tensors that it holds."""
        self._last = self._plan = None

    def output(self, member: "SpikeLinear", x: Tensor) -> Tensor:
        """The output of one member for x [..., in_features]."""
        if HOOK in member.__dict__ and any(map(is_away, self._modules())):
            return self._alone(member, x)
        if len(self.members) < 2 or torch.compiler.is_compiling():  # a compiler merges equal encodes itself
            return self.products(x, [member])[0]
        version = None if x.is_inference() else x._version
        has_gradients = x.requires_grad and torch.is_grad_enabled()
        last = self._last
        if (
            last is not None
            and last.source() is x
            and last.version == version
            and last.has_gradients == has_gradients
            and (waiting := last.outputs.pop(member, None)) is not None  # else another thread has taken it
            and waiting[1] == member.versions()
        ):
            if not last.outputs:
                self._last = None
            return waiting[0]
        computed = dict(zip(self.members, self.products(x, self.members), strict=True))
        y = computed.pop(member)
        outputs = {other: (output, other.versions()) for other, output in computed.items()}
        self._last = _Last(weakref.ref(x), version, has_gradients, outputs)
        return y

    def _modules(self) -> "tuple[torch.nn.Module | None, ...]":
        return *self.members, self.encoder.norm, self.encoder.center

    def _alone(self, member: "SpikeLinear", x: Tensor) -> Tensor:
        """The output of one member whose group is not in memory at once; nothing that was prepared is kept."""
        with brought_back((member, self.encoder.norm, self.encoder.center)):
            y = self.products(x, [member])[0]
        self.forget()
        return y

    def products(self, x: Tensor, members: "list[SpikeLinear]") -> list[Tensor]:
        """Encode x and multiply it by the weights of some members."""
        outputs = self._products(self.encoder.centered(x), members)
        return outputs if self.encoder.center is None else [y.to(x.dtype) for y in outputs]

    def _products(self, x: Tensor, members: "list[SpikeLinear]") -> list[Tensor]:
        if self._takes_plan(x, members) and (plan := self.plan()) is not None:
            return run_group(x, plan.arguments)
        encoding = self.encoder.encode(x)
        spikes, codec, first = encoding.spikes, self.encoder.codec, members[0]
        if spikes is None or codec is None or first.weight_scale is None:
            return [linear.float_product(encoding).to(x.dtype) for linear in members]
        if spikes.stacked or first.execution == "unfold":  # the latter for proof only; no fused op
            accumulators = (linear.accumulate(encoding, first.execution) for linear in members)
            return [linear.scaled(acc, encoding, x.dtype) for linear, acc in zip(members, accumulators, strict=True)]
        outputs: list[Tensor] = ops.linears(
            spikes.counts,
            spikes.scale,
            spikes.zero_point,
            operands_of(members),
            ops.ProductSettings(first.scheme.weights.bits, codec.largest_count, first.execution).table(),
            x.dtype,
        )
        return outputs

    def _takes_plan(self, x: Tensor, members: "list[SpikeLinear]") -> bool:
        return (
            len(members) == len(self.members)
            and not torch.compiler.is_compiling()
            and type(x) is Tensor  # not a fake tensor or the like
            and x.is_cpu
            and x.dtype in FLOATS
        )

    def plan(self) -> GroupPlan | None:
        """What runs the whole group in one native call on the CPU; None where its steps must run one by one.

        Hold on to it while the call runs: another thread may make a new one meanwhile.
        """
        if self.encoder.observers:
            return None
        plan = self._plan
        if plan is None or not plan.holds(self):
            plan = self._plan = plan_of(self)
        return plan

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_plan": None}


def check_thresholds(model: nn.Module) -> None:
    """Refuse a model with linears that share an encode but were calibrated to clip it at different thresholds.

    Raises:
        SpikeconvError: two differ.
    """
    first: dict[int, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        threshold, group = module._buffers.get("input_threshold"), getattr(module, "group", None)
        if threshold is None or threshold.is_meta or not isinstance(group, SpikeGroup):
            continue
        other, expected = first.setdefault(id(group), (name, threshold))
        if not torch.equal(threshold.cpu(), expected.cpu()):
            raise SpikeconvError(
                f"{name}.input_threshold is {threshold.tolist()}, that of {other}, which shares its input, "
                f"{expected.tolist()}; expected the same number. The checkpoint is damaged; convert it again."
            )
