"""Clipping a float model's inputs is what the encoder will do, has the gradient it should, and τ is what it says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spikeconv.config import SpikeConfig
from spikeconv.nn import Encoder, SpikeGroup, SpikeLinear
from spikeconv.nn.clip import MembraneClip, quantile_of
from spikeconv.rotation import Rotation

SIZE = 72
MODES = pytest.mark.parametrize("mode", ["relu", "shifted", "two-sided"])


def scheme(mode: str, quantile: float = 0.5, **settings: Any) -> SpikeConfig:
    return SpikeConfig.parse({"inputs.clip": {"mode": mode, "quantile": quantile}, **settings})


def clipping_encoder(settings: SpikeConfig, threshold: Tensor) -> Encoder:
    """An encoder whose linear holds that threshold."""
    group = SpikeGroup(SIZE, settings)
    SpikeLinear(SIZE, 3, settings, group).input_threshold = threshold.reshape(1)
    return group.encoder


@MODES
@pytest.mark.parametrize("rotation", ["gamma-sqp", "none"])
def test_it_is_what_an_encoder_does(mode: str, rotation: str) -> None:
    """A⁻¹ clip(A x), seen through A, is the float encoder's potential."""
    settings = scheme(mode, bits="16-16", rotation=rotation)
    clip = MembraneClip(SIZE, settings)
    clip.threshold = torch.tensor(0.3)
    x = torch.randn(4, 5, SIZE)
    encoder = clipping_encoder(settings, clip.threshold)
    seen = clip(x) if encoder.rotation is None else encoder.rotation(clip(x))
    torch.testing.assert_close(seen, encoder(x).decode(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.9])
@MODES
def test_the_quantile_is_the_share_cut_off(mode: str, quantile: float) -> None:
    u = torch.randn(3, 7, SIZE)
    values = (u.abs() if mode == "two-sided" else u).flatten().sort().values
    found = quantile_of(u, quantile, mode)
    rank = int((values <= found).sum())
    assert found in values and rank == max(1, -(-int(1000 * quantile * values.numel()) // 1000))


def test_a_share_of_gaussian_inputs_falls_silent() -> None:
    for quantile in (0.5, 0.6):
        clip = MembraneClip(SIZE, scheme("relu", quantile=quantile, rotation="none"))
        silent = (clip(torch.randn(500, SIZE)) == 0).float().mean().item()
        assert silent == pytest.approx(quantile, abs=1e-3)


def test_the_threshold_is_a_moving_average_of_what_was_seen() -> None:
    clip = MembraneClip(4, scheme("relu", rotation="none"))  # q = 0.5: the second smallest of four
    clip(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    clip(torch.tensor([[3.0, 4.0, 5.0, 6.0]]))
    assert clip.threshold is None
    clip.update(0.9)
    assert clip.threshold is not None and clip.threshold.item() == 3.0
    clip(torch.tensor([[10.0, 13.0, 20.0, 20.0]]))
    clip.update(0.9)
    assert clip.threshold.item() == pytest.approx(0.9 * 3 + 0.1 * 13)
    clip.update(0.9)  # nothing new
    assert clip.threshold.item() == pytest.approx(4.0)


@MODES
def test_gradients(mode: str) -> None:
    """Against finite differences in float64, where the reference of a rotation is its matrix."""
    matrix = Rotation(SIZE, 2)(torch.eye(SIZE))
    clip = MembraneClip(SIZE, scheme(mode))
    clip.threshold = torch.tensor(0.2)
    x, weight = torch.randn(6, SIZE, requires_grad=True), torch.randn(6, SIZE)
    (clip(x) * weight).sum().backward()
    u = x.detach() @ matrix
    open_ = (u.abs() if mode == "two-sided" else u) > 0.2
    expected = ((weight @ matrix) * open_) @ matrix.mT
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-5)


def test_linears_with_one_input_share_one_clip() -> None:
    clip, calls = MembraneClip(SIZE, scheme("relu")), []
    linears = nn.ModuleList(nn.Linear(SIZE, 5) for _ in range(3))
    for name, linear in linears.named_children():
        clip.attach(name, linear)
    clip._rate_of = lambda u: calls.append(1)  # type: ignore[assignment,method-assign,func-returns-value,return-value]
    clip.measures_rate = True
    x = torch.randn(2, SIZE)
    outputs = [linear(x) for linear in linears]
    assert len(calls) == 1 and clip.linears == ["0", "1", "2"]
    for linear, y in zip(linears, outputs, strict=True):
        torch.testing.assert_close(y, nn.functional.linear(clip(x), linear.weight, linear.bias))


def test_checkpointing_gives_the_same_gradients() -> None:
    def gradients(run: Callable[..., Tensor]) -> list[Tensor]:
        torch.manual_seed(1)
        layer = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
        clip = MembraneClip(SIZE, scheme("relu"))
        clip.attach("0", layer[0])
        for _ in range(2):
            layer.zero_grad()
            run(layer, torch.randn(3, SIZE)).square().sum().backward()
            clip.update(0.5)
        assert clip.threshold is not None
        return [clip.threshold, *(parameter.grad for parameter in layer.parameters() if parameter.grad is not None)]

    plain = gradients(lambda layer, x: layer(x))
    recomputed = gradients(lambda layer, x: checkpoint(layer, x, use_reentrant=False))
    assert len(plain) == 5
    for ours, theirs in zip(plain, recomputed, strict=True):
        assert torch.equal(ours, theirs)


def test_a_constant_part_is_left_alone() -> None:
    center = nn.LayerNorm(SIZE)
    nn.init.normal_(center.bias)
    clip = MembraneClip(SIZE, scheme("relu"), center)
    plain = MembraneClip(SIZE, scheme("relu"))
    x = torch.randn(5, SIZE)
    torch.testing.assert_close(clip(x + center.bias), plain(x) + center.bias, rtol=0, atol=1e-5)


def test_the_rate_is_that_of_the_encoder() -> None:
    settings = scheme("relu", quantile=0.6)
    clip = MembraneClip(SIZE, settings)
    clip.measures_rate = True
    x = torch.randn(40, SIZE)
    clip(x)
    clip.update(0.9)
    assert clip.threshold is not None
    encoder = clipping_encoder(settings, clip.threshold)
    spikes = encoder(x).spikes
    assert spikes is not None
    assert clip.rate == pytest.approx(spikes.counts.float().abs().mean().item() / 8, rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "quantile", "rate"),
    [("relu", 0.5, 0.114), ("relu", 0.6, 0.110), ("shifted", 0.6, 0.088)],  # METHOD, section 1
)
def test_rates_of_gaussian_inputs_are_those_of_the_paper(mode: str, quantile: float, rate: float) -> None:
    clip = MembraneClip(4096, scheme(mode, quantile=quantile, rotation="none"))
    clip.measures_rate = True
    clip(torch.randn(64, 4096))
    assert clip.rate == pytest.approx(rate, rel=0.1)  # it depends on n through the largest input
