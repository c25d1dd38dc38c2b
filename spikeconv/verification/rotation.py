"""Rotates the linears of a float model without rounding: since H D is orthogonal, its logits must stay."""

from typing import Any

import torch

from spikeconv.config import FLOAT_BITS, FloatInputs, SpikeConfig, WeightSettings
from spikeconv.conversion.linear import convert_linear
from spikeconv.families import family_of, folded_norms
from spikeconv.integrations.transformers import swap_linears

__all__ = ["rotate_only"]


def rotate_only(model: Any, config: SpikeConfig) -> None:
    """Rotate the linears of a float model in place, weights and inputs, without rounding either."""
    exact = SpikeConfig(
        weights=WeightSettings(bits=FLOAT_BITS),
        inputs=FloatInputs(codec="float"),
        rotation=config.rotation,
        skip=config.skip,
    )
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    swapped = swap_linears(model, exact)
    layout = family_of(model).layout(model.config.get_text_config())
    folded = folded_norms(layout, swapped) if exact.rotation.kind == "quarot" else {}
    kinds = {linear.norm: linear.norm_kind for linear in layout if linear.norm}
    for name in {**swapped, **folded}:
        gamma = kinds[folded[name]].gamma(model.get_submodule(folded[name]).weight.data) if name in folded else None
        if name in swapped:
            center = swapped[name].encoder.center
            constant = None if center is None else center.bias.data
            tensors = convert_linear(linears[name].weight.data, exact, gamma, constant).tensors
            swapped[name].load_state_dict(tensors, strict=False)  # a bias of its own stays
        elif gamma is not None:
            linears[name].weight.data.mul_(gamma)
    for norm in set(folded.values()):
        model.get_submodule(norm).weight.data.fill_(kinds[norm].neutral)
