"""Neurons with a state over time steps in front of a linear: SpikeLM's elastic bi-spiking one, and LIF, its baseline.

    m_t = x_t + β v_(t-1)                        charge
    k_t = clamp(round(m_t / α_t), -1, 1)         fire: a spike is worth α_t, and comes from a potential of α_t / 2 on
    v_t = m_t (α_t - α_t k_t)                    what is left (`reset: code`)
    v_t = m_t (1 - |k_t|)                        the same for both signs, whatever the scale (`reset: normalised`)

(arXiv 2406.03287, eq. 11 to 13, as its public code has them: the printed threshold is α, and there is no β.) A negative
spike doubles what the code's reset leaves. LIF: k_t = [m_t ≥ 1], v_t = m_t (1 - k_t), α = 1.

The rows of an input [T · rows, ..., n] are T streams of the network, the first step's first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, Unfolds, potential
from spikeconv.config import ElasticInputs, LifInputs
from spikeconv.errors import SpikeconvError
from spikeconv.rotation import Rotation

__all__ = ["Neuron", "NeuronCodec", "streams_of"]

FLOOR = 1e-5
"""Least α that is found."""


@dataclass(frozen=True)
class Neuron:
    """One neuron for every channel.

    Attributes:
        leak: β.
        lowest: its smallest spike, -1 or 0.
        is_lif: whether it fires where the potential reaches 1, and not by α.
        normalised: whether both signs reset, whatever α is.
        arctan: whether gradients pass a spike by an arctan's slope, and not straight through within the range.
    """

    leak: float
    lowest: int
    is_lif: bool = False
    normalised: bool = True
    arctan: bool = False

    @classmethod
    def of(cls, inputs: ElasticInputs | LifInputs, leak: float | None = None) -> "Neuron":
        """The neuron of a scheme, with another leak if that is said: there is none behind keys and values."""
        beta = inputs.leak if leak is None else leak
        if isinstance(inputs, LifInputs):
            return cls(beta, 0, is_lif=True, arctan=inputs.gradient == "arctan")
        return cls(beta, inputs.count_min, normalised=inputs.reset == "normalised")

    def fired(self, m: Tensor, alpha: Tensor) -> Tensor:
        """k of a potential m, in its dtype."""
        if self.is_lif:
            return (m >= 1).to(m.dtype)
        return (m / alpha).round_().clamp_(self.lowest, 1)

    def left(self, k: Tensor, alpha: Tensor) -> Tensor:
        """β v / m: the share of a potential that is there at the next step."""
        if self.is_lif or self.normalised:
            return (1 - k.abs()).mul_(self.leak)
        return (1 - k).mul_(alpha).mul_(self.leak)

    def found(self, x: Tensor, k: float | None) -> Tensor:
        """α [steps] float32 of inputs x [steps, ..., n]: k times the mean |m|; 1 without k."""
        alpha = torch.ones(len(x), device=x.device)
        if k is None:
            return alpha
        kept = torch.zeros_like(x[0])
        for step, drive in enumerate(x):
            m = drive if step == 0 else drive + kept
            alpha[step] = (k * m.abs().mean()).clamp_min(FLOOR)
            kept = m * self.left(self.fired(m, alpha[step]), alpha[step])
        return alpha

    def charged(self, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """m and k [steps, ..., n] float32 of inputs x [steps, ..., n] float32, with one α [steps] for each step."""
        m, k = torch.empty_like(x), torch.empty_like(x)
        for step, drive in enumerate(x):
            m[step] = drive if step == 0 else drive + m[step - 1] * self.left(k[step - 1], alpha[step - 1])
            k[step] = self.fired(m[step], alpha[step])
        return m, k


@dataclass(frozen=True)
class NeuronCodec(Unfolds):
    """Encoder; `time_steps` is T."""

    neuron: Neuron
    time_steps: int

    @classmethod
    def of(cls, inputs: ElasticInputs | LifInputs) -> "NeuronCodec":
        """The codec of a scheme with `inputs.codec=elastic` or `lif`."""
        return cls(Neuron.of(inputs), inputs.time_steps)

    @property
    def largest_count(self) -> int:
        """One spike."""
        return 1

    def encode(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        norm: Norm | None = None,
        calibrated: Tensor | None = None,
        histogram: bool = False,
    ) -> SpikeCounts:
        """Spikes of x [T · rows, ..., n] after the norm and the rotation, by α (`calibrated`, float32 [T])."""
        assert calibrated is not None, "a linear holds its α"
        u = potential(x, rotation, norm)
        streams = streams_of(u, self.time_steps)
        finite = u.isfinite().all(-1, keepdim=True)
        counts = self.neuron.charged(streams, calibrated)[1].nan_to_num_(0).to(torch.int8).view(u.shape)
        steps = calibrated.view(-1, *[1] * (streams.dim() - 1)).expand(*streams.shape[:-1], 1)
        scale = torch.where(finite, steps.reshape(finite.shape), torch.nan)
        bins = ops.histogram_of(counts, self.neuron.lowest, 2 - self.neuron.lowest if histogram else 0)
        return SpikeCounts(counts, scale, None, bins, self.neuron.lowest, steps=self.time_steps)


def streams_of(u: Tensor, steps: int) -> Tensor:
    """u [T · rows, ..., n] as [T, rows, ..., n].

    Raises:
        SpikeconvError: that many rows are no T streams.
    """
    if u.dim() < 2 or u.shape[0] % steps:
        raise SpikeconvError(
            f"A neuron of {steps} time steps was given {u.shape[0]} rows, which are not as many streams; call the "
            "whole model, whose first layer repeats its input."
        )
    streams: Tensor = u.unflatten(0, (steps, -1))
    return streams
