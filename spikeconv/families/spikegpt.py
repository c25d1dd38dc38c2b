"""SpikeGPT (Zhu et al. 2023): RWKV-4's linears; the neurons at the end of its branches are the model's own.

What its linears read are real numbers, so that each gets an encoder as in RWKV-4. In SpikeGPT-B the inputs of
`feed_forward.value` are spikes, zeros and ones: counts of one bit that lose nothing, one spike for each.
"""

from dataclasses import replace
from typing import Any

from spikeconv.families.rwkv4 import FAMILY as RWKV4

__all__ = ["FAMILY"]


def _float_macs(config: Any, tokens: int) -> dict[str, int]:
    """RWKV-4's, and one for each neuron: its leak."""
    neurons = 2 * config.hidden_size + (config.intermediate_size if config.lif_in_ffn else 0)
    return {**RWKV4.float_macs(config, tokens), "neurons": tokens * neurons * config.num_hidden_layers}


SPIKES = {
    "inputs.spikes": "binary",
    "inputs.bits": 1,
    "inputs.scale": "max",
    "inputs.dead_zone": 0,
    "inputs.clip_ratio": 1.0,
    "rotation.kind": "none",
    "balance": "none",
    "code.kind": "unary",
    "code.slots": None,
}


def _model_settings(config: Any) -> dict[str, dict[str, Any]]:
    return {"ffn.value": SPIKES} if config.lif_in_ffn else {}


FAMILY = replace(
    RWKV4,
    model_type="spikegpt",
    architecture="SpikeGptForCausalLM",
    stacks=tuple(replace(stack, recurrent=None) for stack in RWKV4.stacks),
    float_macs=_float_macs,
    fires=True,
    model_settings=_model_settings,
    fixed={},
)
