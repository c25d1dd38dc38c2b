"""Rotates the linears of a float model without rounding: since H D is orthogonal, its logits must stay."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from spikeconv.config import FLOAT_BITS, FloatInputs, SpikeConfig, WeightSettings
from spikeconv.conversion.linear import convert_linear
from spikeconv.families import family_of, folded_norms
from spikeconv.integrations.transformers import swap_linears

__all__ = ["rotate_only", "rotation_error_alone"]


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
            bias = linears[name].bias
            own = None if bias is None else bias.data
            tensors = convert_linear(linears[name].weight.data, exact, gamma, constant, bias=own).tensors
            swapped[name].load_state_dict(tensors, strict=False)  # a bias of its own stays
        elif gamma is not None:
            linears[name].weight.data.mul_(gamma)
    for norm in set(folded.values()):
        model.get_submodule(norm).weight.data.fill_(kinds[norm].neutral)


def rotation_error_alone(model: Any, ids: Tensor, config: SpikeConfig) -> float:
    """Rotate as `rotate_only`, and give the largest |Δ y| / max |y| of a linear that sees what it saw before.

    For models in which a rounding error may become a spike, and so the logits may differ.

    Args:
        model: a float model.
        ids: token ids [batch, tokens] on its device.
        config: settings of the conversion.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str, _module: Any, arguments: tuple[Tensor, ...], y: Tensor) -> None:
        seen[name] = arguments[0], y

    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_hook(partial(see, name)) for name, module in linears]
    model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    rotate_only(model, config)
    swapped = ((model.get_submodule(name), *each) for name, each in seen.items())
    return max(float((linear(x) - y).abs().max() / y.abs().max()) for linear, x, y in swapped)
