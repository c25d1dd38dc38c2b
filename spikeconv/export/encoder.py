"""How an input becomes counts, told to tool chains that know nothing of us: steps in their order, as plain values.

subtract, multiply      by an array [in]
rms_norm                x / sqrt(mean x² + epsilon) · array
rotate                  blocks of `block` inputs: u = (H_1 ⊗ H_2 ⊗ …) (signs · x) / sqrt(block)
clip                    what the threshold leaves, by mode
count, digits, …        the codec: its settings, and its rule as a sentence
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikeconv.config import CountInputs, FloatInputs
from spikeconv.nn import SpikeLinear
from spikeconv.rotation import Rotation

__all__ = ["MEMBRANES", "encoder_steps"]

Arrays = dict[str, NDArray[Any]]

SCALES = {
    "max": "s = clip_ratio * max|u| / count_max",
    "rms": "s = step * sqrt(mean u^2), or clip_ratio * max|u| / count_max where that is more",
    "mean": "s = step * mean|u|, or clip_ratio * max|u| / count_max where that is more",
}
SIGNED = "k = clamp(round_half_even(u / s), count_min, count_max); {scale}, one for each token (1 where it is 0)"
ZONE = (
    "; unit = the root mean square of u (with scale=mean its mean |u|); where s = step * unit, and with scale=max: "
    "k = 0 for |u| < dead_zone * unit, and |k| <= one_spike, if given, for |u| < one_spike * s + dead_zone * unit"
)
UNSIGNED = (
    "k = clamp(round_half_even(u / s) + z, 0, count_max); s = clip_ratio * (max(u, 0) - min(u, 0)) / count_max and "
    "z = round_half_even(-clip_ratio * min(u, 0) / s), one of each for a token (s = 1 where it is 0)"
)
RULES = {
    "multihead": "q = min(floor(|u| * 10^(layers - integer_digits)), 10^layers - 1); the digits of q, the first "
    "first, each with the sign of u; with several time_steps what one leaves of u is added to u in the next, and the "
    "scale divides by their number; rounding=round: round instead of floor",
    "repetition": "k = sign(u) * min(floor(|u| * time_steps / theta), time_steps); theta = the threshold_quantile of "
    "|u| over a token (1: the largest; 1 where it is 0), and s = theta / time_steps",
    "elastic": "k = clamp(round_half_even(u / alpha), count_min, 1) and s = alpha",
    "lif": "k = 1 where u >= 1, else 0, and s = alpha = 1",
}

MEMBRANES = {"add": "V <- V + I", "double": "V <- 2 V + I", "ramp": "C <- C + I, then V <- V + C"}
"""What a neuron does in a slot with input current I that needs no slot weights, by `Code.membrane`."""


def encoder_steps(linear: SpikeLinear) -> tuple[list[dict[str, Any]], Arrays]:
    """The steps from a linear's input to its counts, and the arrays that they name."""
    encoder, inputs = linear.encoder, linear.scheme.inputs
    steps: list[dict[str, Any]] = []
    arrays: Arrays = {}

    def step(what: str, name: str, values: Any, **more: Any) -> None:
        arrays[name] = values.detach().float().cpu().numpy()
        steps.append({"step": what, "array": name, **more})

    if encoder.center is not None:
        step("subtract", "center", encoder.center.bias)
    if (balance := encoder.held("input_balance")) is not None:
        step("multiply", "balance", balance)
    if encoder.norm is not None:
        step("rms_norm", "norm_weight", encoder.norm.weight, epsilon=encoder.norm.epsilon)
    if encoder.rotation is not None:
        steps.append(_rotate(encoder.rotation, arrays))
    if linear.scheme.clip is not None and encoder.threshold is not None:
        steps.append({"step": "clip", "mode": linear.scheme.clip.mode, "threshold": float(encoder.threshold)})
    assert not isinstance(inputs, FloatInputs), "a linear with a codec"
    limits = {"count_min": inputs.count_min, "count_max": inputs.count_max}
    settings = inputs.model_dump(mode="json", exclude={"codec", "clip"})
    if (alpha := encoder.held("input_alpha")) is not None:
        settings["alpha"] = float(alpha)
    steps.append({"step": inputs.codec, **settings, **limits, "rule": _rule(linear)})
    return steps, arrays


def _rule(linear: SpikeLinear) -> str:
    inputs = linear.scheme.inputs
    if not isinstance(inputs, CountInputs):
        return RULES[inputs.codec]
    if not inputs.symmetric:
        return UNSIGNED
    return SIGNED.format(scale=SCALES[inputs.scale]) + (ZONE if inputs.dead_zone else "")


def _rotate(rotation: Rotation, arrays: Arrays) -> dict[str, Any]:
    """The step of a rotation: a power of two is Sylvester's matrix, other orders are arrays `hadamard_ORDER`."""
    signs, *bases = rotation.on(torch.device("cpu"))
    arrays["signs"] = signs.flatten().numpy().astype(np.int8)
    for base in bases:
        arrays[f"hadamard_{len(base)}"] = base.numpy().astype(np.int8)
    orders = [*map(len, bases), signs.shape[1]]
    return {"step": "rotate", "block": rotation.order, "orders": orders, "signs": "signs"}
