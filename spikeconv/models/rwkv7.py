"""RWKV-7 (Goose; Peng et al. 2025) is the optional package rwkv7-hf, with its loop over tokens replaced by `wkv7`."""

from rwkv7_hf import RWKV7Config, RWKV7ForCausalLM, modeling_rwkv7
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from spikeconv.models.wkv import wkv7

__all__ = ["register_rwkv7"]

_loop = modeling_rwkv7.rwkv7_recurrent


def register_rwkv7() -> None:
    """Register the package's model with transformers, and let it compute its attention by `wkv7`."""
    modeling_rwkv7.rwkv7_recurrent = _recurrent
    AutoConfig.register("rwkv7", RWKV7Config, exist_ok=True)
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
    """In the place and with the signature of the package's `rwkv7_recurrent`; padded batches take its loop."""
    if attention_mask is not None and not bool(attention_mask.all()):
        return _loop(receptance, decay, key, value, a, b, initial_state, attention_mask)  # type: ignore[no-any-return]
    y, state = wkv7(receptance, decay.float().log(), key, value, a, b, initial_state)
    return y.to(value.dtype), state
