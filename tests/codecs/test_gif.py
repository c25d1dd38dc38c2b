"""SpikeLLM's counts: two widths in one range, and the steps that send them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.codecs import GifCodec, codec_of
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.nn import row_sums, set_execution
from spikeconv.nn.linear import EXECUTIONS

BITS = [(2, 1), (4, 1), (4, 2), (3, 4), (8, 2)]


def codec(bits: int = 4, salient_bits: int = 1, mode: str = "steps") -> GifCodec:
    settings = SpikeConfig.parse(
        {"codec": "gif", "bits": f"4-{bits}", "salient_bits": salient_bits, "salient_mode": mode}
    )
    result = codec_of(settings.inputs)
    assert isinstance(result, GifCodec)
    return result


def affine(x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """UniformAffineQuantizer of the public code: per token, asymmetric, min-max; counts, scale, zero point."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    return (x / scale).round().add(zero).clamp(0, 2**bits - 1), scale, zero


def emitted(counts: Tensor, bits: int, steps: int) -> Tensor:
    """What its multi-step modes send in all: every step the rest, but no more than 2^n - 1."""
    rest, sent = counts.clone(), torch.zeros_like(counts)
    for _ in range(steps):
        spike = torch.where(rest >= 2**bits, 2.0**bits - 1, rest)
        sent += spike
        rest -= spike
    return sent


def test_counts_and_potentials_are_those_of_the_public_code(device: torch.device) -> None:
    x = torch.randn(7, 40, device=device)
    salient = torch.rand(40, device=device) > 0.7
    for (bits, more), mode in ((each, mode) for each in BITS for mode in ("steps", "plain")):
        found = codec(bits, more, mode).encode(x, calibrated=salient, histogram=True)
        (low, low_scale, low_zero), (high, high_scale, high_zero) = affine(x, bits), affine(x, bits + more)
        sent = emitted(high, bits, 2**more) if mode == "steps" else high
        assert torch.equal(found.counts.float(), torch.where(salient, sent, low))
        assert torch.equal(found.scale, torch.stack((low_scale, high_scale)))
        assert found.zero_point is not None
        assert torch.equal(found.zero_point.float(), torch.stack((low_zero, high_zero)))
        potential = torch.where(salient, (sent - high_zero) * high_scale, (low - low_zero) * low_scale)
        assert torch.equal(found.decode(), potential)
        assert (
            found.histogram.tolist() == found.counts.flatten().long().bincount(minlength=len(found.histogram)).tolist()
        )


def test_steps_cut_off_the_top_counts() -> None:
    """T (2^n - 1) is T - 1 below the largest count of n + a bits (SpikeLLM: 31 of 0..31, 61 to 63 of 0..63)."""
    x = torch.linspace(0, 1, 64)[None]
    for bits, more in BITS:
        steps, everything = 2**more, torch.ones(64, dtype=torch.bool)
        cut = codec(bits, more).encode(x, calibrated=everything).counts.max().item()
        whole = codec(bits, more, "plain").encode(x, calibrated=everything).counts.max().item()
        assert (whole, whole - cut) == (2 ** (bits + more) - 1, steps - 1)


def test_a_channel_is_as_fine_as_its_width() -> None:
    x = torch.randn(5, 64)
    salient = torch.zeros(64, dtype=torch.bool)
    salient[::3] = True
    found = codec(4, 2, "plain").encode(x, calibrated=salient)
    error, scale = (found.decode() - x).abs(), found.scale.squeeze(-1)
    step = torch.where(salient, scale[1][:, None], scale[0][:, None])
    # Half a step, and where the rounded zero point cuts the range's ends off another half.
    assert (error <= step * 1.001).all() and (error <= step * 0.501).float().mean() > 0.95


def test_silence_and_broken_tokens() -> None:
    x = torch.randn(4, 8)
    x[0], x[1, 2], x[2, 3] = 0, torch.nan, torch.inf
    found = codec().encode(x, calibrated=torch.tensor([True] * 3 + [False] * 5))
    assert (found.decode()[0] == 0).all() and found.decode()[3].isfinite().all()
    assert not found.scale[:, 1:3].isfinite().any()


@pytest.mark.parametrize("rotation", ["none", "gamma-sqp", "quarot"])
def test_executions_agree_with_the_formula(
    rotation: str, make_linear: Callable[..., Any], device: torch.device
) -> None:
    for bits, more in ((4, 1), (4, 2), (8, 1)):
        linear = make_linear(codec="gif", bits=f"4-{bits}", salient_bits=more, rotation=rotation)[0].to(device)
        x = torch.randn(4, 72, device=device)
        spikes = linear.encoder(x).spikes
        assert torch.equal(spikes.channels[1], linear.input_salient.bool())
        weight = linear.integers().double()
        offset = torch.where(
            spikes.channels[1], *((spikes.counts - zero).double() for zero in spikes.zero_point.flip(0))
        )
        parts = [(offset * channels) @ weight.mT for channels in spikes.channels]
        acc = linear.accumulate(linear.encoder(x), "dense")
        assert torch.equal(acc.double(), torch.stack(parts))
        wanted = sum(
            part * scale * linear.weight_scale for part, scale in zip(parts, spikes.scale.double(), strict=True)
        )
        outputs = []
        for execution in EXECUTIONS:
            set_execution(linear, execution)
            outputs.append(linear(x))
        assert all(torch.equal(y, outputs[0]) for y in outputs)
        bound = 1e-5 * wanted.abs().max()
        assert ((outputs[0] - linear.bias).double() - wanted).abs().max() <= bound


def test_row_sums_are_of_each_kind_of_channel() -> None:
    integers = torch.randint(-8, 8, (5, 24), dtype=torch.int8)
    salient = (torch.arange(24) % 5 == 0).to(torch.uint8)
    low, high = row_sums(integers, salient)
    assert torch.equal(low + high, row_sums(integers, None))
    assert torch.equal(high, integers[:, ::5].int().sum(1).int())


def test_gradients_pass_straight_through(make_linear: Callable[..., Any]) -> None:
    linear, plain = make_linear(codec="gif", bits="8-8", rotation="gamma-sqp")
    x = torch.randn(6, 72, requires_grad=True)
    linear(x).square().sum().backward()
    found, x.grad = x.grad, None
    plain(x).square().sum().backward()
    assert torch.nn.functional.cosine_similarity(found.flatten(), x.grad.flatten(), 0) > 0.99


def test_settings_that_cannot_be() -> None:
    for settings, words in (
        ({"bits": "4-1.58"}, "integers of 2 to 8 bits"),
        ({"salient_bits": 0}, "salient_bits"),
        ({"low_share": 1.0}, "low_share"),
        ({"steps": 8}, "codec=count"),
        ({"salient_mode": "binary"}, "mode"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            SpikeConfig.parse({"codec": "gif", **settings})
