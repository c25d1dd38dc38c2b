"""RWKV-7 (Goose; Peng et al. 2025) is the optional package rwkv7-hf; in the models that are ours to load `wkv7` takes
the place of its loop over tokens."""

import types
import warnings
from typing import Any

from rwkv7_hf import RWKV7Config, RWKV7ForCausalLM
from rwkv7_hf.modeling_rwkv7 import RWKV7Model, RWKV7TimeMix
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from spikeconv.errors import SpikeconvWarning
from spikeconv.models.wkv import wkv7

__all__ = ["adopt", "register_rwkv7"]

LOOP = "rwkv7_recurrent"
"""What the package's time mixing calls its loop."""


def register_rwkv7() -> None:
    """Register the package's model with transformers."""
    AutoConfig.register("rwkv7", RWKV7Config, exist_ok=True)
    AutoModel.register(RWKV7Config, RWKV7Model, exist_ok=True)
    AutoModelForCausalLM.register(RWKV7Config, RWKV7ForCausalLM, exist_ok=True)


def _recurrent(
    receptance: Tensor,
    decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    initial_state: Tensor,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """In the place and with the signature of the package's loop, which padded batches take."""
    if attention_mask is not None and not bool(attention_mask.all()):
        loop = RWKV7TimeMix.forward.__globals__[LOOP]
        return loop(receptance, decay, key, value, a, b, initial_state, attention_mask)  # type: ignore[no-any-return]
    y, state = wkv7(receptance, decay.float().log(), key, value, a, b, initial_state)
    return y.to(value.dtype), state


def _with_our_loop(forward: Any) -> Any:
    """A copy of a function of the package that finds `_recurrent` where it looks for the loop."""
    ours = types.FunctionType(forward.__code__, {**forward.__globals__, LOOP: _recurrent}, forward.__name__)
    ours.__defaults__, ours.__kwdefaults__ = forward.__defaults__, forward.__kwdefaults__
    return ours


class ChunkedTimeMix(RWKV7TimeMix):  # type: ignore[misc]  # the package ships no types
    """Time mixing that reads many tokens in a few large steps."""

    forward = _with_our_loop(RWKV7TimeMix.forward)


def adopt(model: Any) -> None:
    """Give one model the time mixing above; a package that calls its loop by another name keeps it, with a warning."""
    if LOOP not in RWKV7TimeMix.forward.__code__.co_names:
        warnings.warn(
            f"RWKV-7 reads token by token: this rwkv7-hf does not call its loop {LOOP}, whose place spikeconv's would "
            "take.",
            SpikeconvWarning,
            stacklevel=2,
        )
        return
    for module in model.modules():
        if type(module) is RWKV7TimeMix:
            module.__class__ = ChunkedTimeMix
