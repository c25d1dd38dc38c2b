"""Operation counts (METHOD section 7; SDLLM, appendix A; Q-DETR's bit cells).

    MACs            N · in · out per linear (what stays float is counted by its family)
    accumulations   spikes · out: one column element added per spike and output
    FLOPs           MACs · κ(w, a)                      dense
                    MACs · κ(w, spike) · rate · T'      spiking
    κ(w, a)         (w/2)(a/2)/32; a ternary spike counts two bit cells, a binary one

Counts come first because they are facts; FLOPs are the paper's weighting of them.
"""

from spikeconv.config import FLOAT_BITS, GifInputs, LinearScheme

__all__ = ["dense_flops", "kappa", "linear_macs", "spiking_flops"]

SPIKE_CELLS = {"ternary": 2, "binary": 1}


def kappa(weight_bits: float, activation_bits: float) -> float:
    """Cost of one w-bit by a-bit multiply-accumulate, in 32-bit ones; 1 if a side is float."""
    if FLOAT_BITS in (weight_bits, activation_bits):
        return 1.0
    return (weight_bits / 2) * (activation_bits / 2) / 32


def linear_macs(tokens: int, in_features: int, out_features: int) -> int:
    """Multiply-accumulates of a dense linear."""
    return tokens * in_features * out_features


def dense_flops(macs: float, weight_bits: int, activation_bits: int) -> float:
    """FLOPs of integer products of that width: the baseline a spiking count must be read against."""
    return macs * kappa(weight_bits, activation_bits)


def spiking_flops(macs: float, scheme: LinearScheme, spikes_per_input: float) -> float:
    """FLOPs of a linear driven by spikes; spikes of an input = rate · T'. Counts sent whole cost a dense product.

    So do those of `gif`, once for each step: mean T = low_p + (1 - low_p) T of them.
    """
    weight_bits, inputs = scheme.weights.bits, scheme.inputs
    if inputs.spikes not in SPIKE_CELLS:
        steps = inputs.mean_steps if isinstance(inputs, GifInputs) else 1.0
        return steps * dense_flops(macs, weight_bits, inputs.bits)
    return macs * kappa(weight_bits, SPIKE_CELLS[inputs.spikes]) * spikes_per_input
