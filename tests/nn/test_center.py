"""W x = W (x - c) + W c: the constant part of an input goes past the encoder, in every path of a group."""

from typing import Any

import pytest
import torch
from torch import nn

from spikeconv import ops
from spikeconv.config import SpikeConfig
from spikeconv.conversion.linear import convert_linear
from spikeconv.nn import SpikeGroup, SpikeLinear

IN, OUT, TOKENS = 72, 19, 7


@pytest.fixture
def norm() -> nn.LayerNorm:
    norm = nn.LayerNorm(IN).requires_grad_(False)
    norm.bias.normal_(0, 5)
    return norm


@pytest.fixture
def plain() -> nn.Linear:
    return nn.Linear(IN, OUT, bias=False).requires_grad_(False)


def centered(plain: nn.Linear, norm: nn.LayerNorm, **settings: Any) -> SpikeLinear:
    scheme = SpikeConfig.parse(settings)
    linear = SpikeLinear(IN, OUT, scheme, SpikeGroup(IN, scheme, center=norm), bias=True)
    linear.load_state_dict(convert_linear(plain.weight, scheme, center=norm.bias).tensors)
    return linear


@pytest.mark.parametrize("rotation", ["gamma-sqp", "none"])
def test_without_rounding_nothing_changes(plain: nn.Linear, norm: nn.LayerNorm, rotation: str) -> None:
    x = norm(torch.randn(TOKENS, IN))
    linear = centered(plain, norm, bits="16-16", rotation=rotation)
    torch.testing.assert_close(linear(x), plain(x), rtol=0, atol=2e-5)


def test_counts_are_those_of_the_rest(plain: nn.Linear, norm: nn.LayerNorm) -> None:
    x = norm(torch.randn(TOKENS, IN))
    linear, alone = centered(plain, norm), SpikeGroup(IN, SpikeConfig()).encoder
    with_center, without = linear.encoder(x).spikes, alone(x - norm.bias).spikes
    assert with_center is not None and without is not None
    assert torch.equal(with_center.counts, without.counts) and torch.equal(with_center.scale, without.scale)
    error = (linear(x) - plain(x)).norm() / (plain(x - norm.bias)).norm()
    assert error < 0.3  # of the varying part; the constant one comes through whole
    assert torch.equal(linear.bias, (plain.weight.double() @ norm.bias.double()).float())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["packed", "tiles", "columns"])
@pytest.mark.parametrize("settings", [{}, {"bits": "4-1"}, {"codec": "multihead"}, {"bits": "4-16"}])
def test_every_path_gives_the_same(
    plain: nn.Linear, norm: nn.LayerNorm, layout: ops.Layout, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    x = norm(torch.randn(TOKENS, IN)).to(dtype)
    expected = centered(plain, norm, **settings)(x.float()).to(dtype)
    linear = centered(plain, norm, **settings)
    linear.arrange(layout)
    y = linear(x)
    assert y.dtype == dtype
    if linear.weight_scale is None or settings.get("bits") == "4-16":  # a product of floats: its order is the library's
        bound = (0.01 if dtype == torch.bfloat16 else 1e-6) * expected.float().abs().max().item()
        torch.testing.assert_close(y, expected, rtol=0, atol=bound)
        return
    assert torch.equal(y, expected)
    linear.execution = "unfold" if layout == "packed" else "events" if layout == "columns" else "dense"
    assert torch.equal(linear(x), expected)


def test_follows_the_model_s_dtype(plain: nn.Linear, norm: nn.LayerNorm) -> None:
    """In bfloat16 the norm's bias is rounded; what is taken off the input is what is in it."""
    x = norm(torch.randn(TOKENS, IN))
    linear = centered(plain, norm)
    before = linear(x)
    linear.to(torch.bfloat16), norm.to(torch.bfloat16)
    assert linear.encoder.center.bias.dtype == torch.bfloat16
    torch.testing.assert_close(linear(x), before, rtol=0, atol=0.05 * before.abs().max().item())
