"""The counts that SDLLM's three encoders make of a membrane potential: what a model's own counts are compared with.

    asymmetric  4 bits with a zero point, 0 to 15 (section 4.1; figures 3, left, and 6 a, c)
    symmetric   4 bits, signed, -8 to 7 (section 4.3; figures 3, middle, and 6 b, d)
    clipped     symmetric behind the quantile-smoothed ReLU, q = 0.5 (section 4.4; figures 3, right, and 7)

τ is here the quantile of each batch of potentials itself, not a moving average.
"""

from typing import Any

import torch
from torch import Tensor

from spikeconv.codecs import CountCodec
from spikeconv.config import CountInputs, SpikeConfig
from spikeconv.nn.clip import quantile_of

__all__ = ["ALTERNATIVES", "LOWEST", "QUANTILE", "alternative_counts"]

QUANTILE = 0.5
SETTINGS: dict[str, dict[str, Any]] = {
    "asymmetric": {"bits": "4-1"},
    "symmetric": {"bits": "4-1.58"},
    "clipped": {"bits": "4-1.58", "inputs": {"clip": {"mode": "relu", "quantile": QUANTILE}}},
}
ALTERNATIVES = tuple(SETTINGS)
LOWEST = {"asymmetric": 0, "symmetric": -8, "clipped": -8}
"""The count of a histogram's first bin; all have 16."""


def alternative_counts(potential: Tensor) -> Tensor:
    """Histograms of the counts of a potential [tokens…, n] float32: int64 [3, 16], in the order of `ALTERNATIVES`."""
    return torch.stack([_counts(potential, settings).cpu() for settings in SETTINGS.values()])


def _counts(potential: Tensor, settings: dict[str, Any]) -> Tensor:
    inputs = SpikeConfig.parse(settings).inputs
    assert isinstance(inputs, CountInputs)
    clip, threshold = inputs.clip, None
    if clip is not None:
        threshold = quantile_of(potential, clip.quantile, clip.mode).reshape(1)
    return CountCodec.of(inputs).encode(potential, calibrated=threshold, histogram=True).histogram
