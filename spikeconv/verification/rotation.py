"""Rotates the linears of a float model without rounding: since H D is orthogonal, its logits must stay."""

from typing import Any

import torch

from spikeconv.config import FLOAT_BITS, SpikeConfig
from spikeconv.conversion.linear import convert_linear
from spikeconv.families import family_of, folded_norms
from spikeconv.integrations.transformers import swap_linears

__all__ = ["rotate_only"]


def rotate_only(model: Any, config: SpikeConfig) -> None:
    """Rotate the linears of a float model in place, weights and inputs, without rounding either."""
    overrides = {
        "codec": "count",
        "clip_mode": "none",
        "weight_bits": FLOAT_BITS,
        "spikes": "float",
        "count_bits": FLOAT_BITS,
        "count_range": "standard",
    }
    exact = SpikeConfig.parse({**config.model_dump(), **overrides, "overrides": []})
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    swapped = swap_linears(model, exact)
    layout = family_of(model).layout(model.config.num_hidden_layers)
    folded = folded_norms(layout, swapped) if exact.rotation == "quarot" else {}
    for name in {**swapped, **folded}:
        gamma = model.get_submodule(folded[name]).weight.data if name in folded else None
        if name in swapped:
            center = swapped[name].encoder.center
            constant = None if center is None else center.bias.data
            tensors = convert_linear(linears[name].weight.data, exact, gamma, constant).tensors
            swapped[name].load_state_dict(tensors, strict=False)  # a bias of its own stays
        elif gamma is not None:
            linears[name].weight.data.mul_(gamma)
    for norm in set(folded.values()):
        model.get_submodule(norm).weight.data.fill_(1)
