"""Whether a model's modules are those that the engine was made of, and nobody watches or replaced what they do."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from spikeconv.integrations.attention import CacheOf
from spikeconv.models.shift import check_padding
from spikeconv.nn import attention_codes, spike_linears
from spikeconv.ops.places import NOTHING, Place, Places

__all__ = ["HARNESS", "Watched", "encode_watched", "watches"]

HARNESS = "spikeconv.integrations.lm_eval"


class Watched:
    """The modules of a decoder as they are now.

    Args:
        model: loaded, with the decoder as its `base_model`.
    """

    def __init__(self, model: Any) -> None:
        modules = list(model.base_model.modules())
        encoders = {id(linear.encoder): linear.encoder for linear in spike_linears(model).values()}.values()
        codes = attention_codes(model).values()
        told = [(vars(encoder), name) for encoder in encoders for name in ("observers", "readers")]
        of_states = [(code.observers, kind) for code in codes for kind in code.observers]
        kept = [(m._modules, name) for m in modules for name in m._modules]
        kept += [(vars(code), "observers") for code in codes]
        self._same = Places(Place(owner, name, owner[name]) for owner, name in (*kept, *told, *of_states))
        forwards = [Place(vars(m), "forward", NOTHING) for m in modules[1:]]
        self._alone = Places(forwards)
        self._unwatched = Places([], empty=[owner[name] for owner, name in (*told, *of_states)])
        self._hooks: list[dict[int, Any]] = [
            hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)
        ]
        self._unhooked = Places([], empty=self._hooks)

    def is_same(self) -> bool:
        """Whether these still are the model's modules. (It has hundreds, and a token a few milliseconds.)"""
        return self._same.hold()

    def is_alone(self) -> bool:
        """Whether nobody computes in their place, or is told of what they compute, but of encodings."""
        return self._alone.hold() and (self._unhooked.hold() or not watches(self._hooks))

    def is_unwatched(self) -> bool:
        """Whether nobody is told of encodings."""
        return self._unwatched.hold()


def watches(hooks: Iterable[dict[int, Any]]) -> bool:
    """Whether a hook does anything to the purpose: transformers leaves its own behind, the harness's only counts.

    Those which make the cache one of rows, or refuse padding, have done so before this forward.
    """
    return any(
        getattr(hook, "__module__", None) not in ("transformers.utils.output_capturing", HARNESS)
        and type(hook) is not CacheOf
        and hook is not check_padding
        for held in filter(None, hooks)
        for hook in held.values()
    )


def encode_watched(
    groups: Iterable[Sequence[Any]], reads: Sequence[str], layers: Iterable[dict[str, Tensor]], shape: Sequence[int]
) -> None:
    """Let the encoders of each layer that somebody watches encode what the engine's did.

    Args:
        groups: of the linears of each layer.
        reads: what each of a layer's groups reads, by its name in `layers`.
        layers: what was computed on the way, float32 [tokens, width].
        shape: [batch, tokens].
    """
    for own, was in zip(groups, layers, strict=True):
        for group, name in zip(own, reads, strict=True):
            if group.encoder.is_watched:
                group.encoder(was[name].clone().view(*shape, -1))  # the next layer overwrites it
