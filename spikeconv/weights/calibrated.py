"""Weights that know their inputs: GPTQ, GPTAQ and Qronos, with the residual stream's error if wanted.

All minimise Σ ‖y - Ŵ û‖² over integers, each for its y, in one sweep (`sweep`) over the inputs, the largest H_ii first:

    gptq     y = W û (Frantar et al. 2023, arXiv 2210.17323; act-order)
    gptaq    y = W u, input by input while they are rounded (Li et al. 2025, arXiv 2504.02692; `gptaq`)
    qronos   y = W u, at once: Wᵀ + (H + λ I)⁻¹ C Wᵀ is swept in place of Wᵀ, and the first input is rounded from
             w_0 + (C Wᵀ)_0 / H_00, the best value while the others stay (Zhang et al. 2025, arXiv 2505.11695)

Qronos' later steps are GPTQ's on what is left after the first, so that this is the paper's algorithm. Not the
paper's: λ is a share of the mean H_ii (there of the largest singular value), and all that follows. Where there is a
residual r, for the linears that write to the residual stream, y = W u + r: gptq and qronos sweep Wᵀ + (H + λ I)⁻¹ (C
Wᵀ + R), gptaq, which sees to C by itself, Wᵀ + (H + λ I)⁻¹ R. The scales are ours (`scale`). With a bias, everything
is about the means, and the bias brings the mean of y back.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.errors import SpikeconvError
from spikeconv.weights.gptaq import asymmetry
from spikeconv.weights.hessian import Statistics, factorize
from spikeconv.weights.rtn import QuantizedWeight
from spikeconv.weights.scale import refit_scale, search_scale
from spikeconv.weights.sweep import sweep

__all__ = ["CalibratedWeight", "Method", "quantize_calibrated"]

Method = Literal["gptq", "gptaq", "qronos"]


@dataclass(frozen=True)
class CalibratedWeight:
    """A weight rounded for its inputs.

    Attributes:
        quantized: integers and scales.
        bias: what to add to the output [out] float32, or None.
        damping: the damping that H could be factored with, at least the one asked for.
        output_error: ‖(Ŵ - W*) û‖ / ‖W* û‖ over the calibration tokens, W* what was swept: what rounding alone costs.
    """

    quantized: QuantizedWeight
    bias: Tensor | None
    damping: float
    output_error: float


def quantize_calibrated(
    weight: Tensor,
    statistics: Statistics,
    bits: int,
    method: Method = "gptq",
    *,
    damping: float = 0.1,
    search_clip: bool = True,
    with_bias: bool = False,
) -> CalibratedWeight:
    """Round a float matrix [out, in] for its inputs; an all-zero row stays one, with scale 1, unless y asks for more.

    Args:
        weight: any float dtype.
        statistics: of its inputs; `cross` is needed by gptaq and qronos, `residual` is used if it is there.
        bits: 2 to 8.
        method: which y, and how.
        damping: λ as a share of the mean H_ii; raised until H can be factored.
        search_clip: search the scale per channel; else it is min-max. It is refined in both cases.
        with_bias: also give the bias; `counts` and `errors` are needed for it.

    Raises:
        SpikeconvError: the weight or the statistics are not finite.
    """
    if not torch.isfinite(weight).all():
        raise SpikeconvError("A weight is not finite: it is damaged, and was not converted.")
    sums = statistics.double()
    about = sums.centered() if with_bias else sums
    hessian, plain = about.hessian, weight.double().mT
    order = hessian.diagonal().argsort(descending=True, stable=True)
    back = order.argsort()
    factor = factorize(hessian[order][:, order], damping)

    cross = _cross_term(about, plain, method)
    swept = _plus(cross if method != "gptaq" else None, about.residual)
    target = plain if swept is None else plain + factor.solve(swept[order])[back]
    scale = search_scale(target.mT, hessian.diagonal(), bits, search_clip)
    first = None
    if method == "qronos" and swept is not None and (power := hessian.diagonal()[order[0]]) > 0:
        first = plain[order[0]] + swept[order[0]] / power
    extra = None
    if method == "gptaq" and about.cross is not None:
        extra = asymmetry(about.cross[order][:, order], factor.upper)
    values = sweep(target[order], factor.upper, scale.double(), bits, first=first, asymmetry=extra)[back]

    wanted = _plus(cross, about.residual)
    moment = hessian @ plain if wanted is None else hessian @ plain + wanted
    scale = refit_scale(values, scale, hessian, moment)
    rounded = values * scale.double()
    bias = _bias(sums, plain, rounded) if with_bias else None
    return CalibratedWeight(
        _packed(values, scale, bits, _relative(rounded - plain, plain)),
        bias,
        factor.damping,
        _relative_output(rounded - target, target, hessian),
    )


def _cross_term(about: Statistics, plain: Tensor, method: Method) -> Tensor | None:
    """C Wᵀ [in, out] where y is of the float network's inputs."""
    if about.cross is None or (method == "gptq" and about.residual is None):
        return None
    return about.cross @ plain


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _bias(sums: Statistics, plain: Tensor, rounded: Tensor) -> Tensor | None:
    """The mean of W u + r - Ŵ û [out] float32."""
    if sums.counts is None or sums.errors is None or not sums.weight:
        return None
    total = (plain - rounded).mT @ sums.counts + plain.mT @ sums.errors
    total = total if sums.residuals is None else total + sums.residuals
    return (total / sums.weight).float()


def _packed(values: Tensor, scale: Tensor, bits: int, error: float) -> QuantizedWeight:
    integers = values.mT.to(torch.int8).contiguous()
    return QuantizedWeight(ops.pack(integers, bits), scale, integers.sum(1, dtype=torch.int32), error)


def _relative(error: Tensor, of: Tensor) -> float:
    norm = float(of.norm())
    return float(error.norm()) / norm if norm > 0 else 0.0


def _relative_output(error: Tensor, of: Tensor, hessian: Tensor) -> float:
    ours, whole = (float((each * (hessian @ each)).sum()) for each in (error, of))
    return math.sqrt(max(ours, 0.0) / whole) if whole > 0 else 0.0
