"""SpikeRWKV's digits against decimal arithmetic, and its accumulation against the sum of its digits."""

import itertools
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
import torch

from spikeconv.codecs import MultiheadCodec, codec_of
from spikeconv.config import SpikeConfig
from spikeconv.nn import set_execution
from spikeconv.record.recorder import Recorder
from spikeconv.rotation import Rotation


def codec(layers: int, integer_digits: int = 2, time_steps: int = 1, rounding: str = "truncate") -> MultiheadCodec:
    return MultiheadCodec(layers, integer_digits, time_steps, rounding)


def test_the_example_of_the_paper() -> None:
    """Fig. 3: six layers, two of them integer digits."""
    spikes = codec(6, 2).encode(torch.tensor([[-0.234567]]))
    assert spikes.counts.flatten().tolist() == [0, 0, -2, -3, -4, -5]
    assert spikes.decode().item() == pytest.approx(-0.2345, abs=1e-7)


@pytest.mark.parametrize(("name", "rounding"), [("truncate", ROUND_DOWN), ("round", ROUND_HALF_EVEN)])
def test_digits_are_those_of_the_decimal_number(name: str, rounding: str, device: torch.device) -> None:
    for layers, integer_digits in itertools.product((1, 3, 4, 5, 7), (0, 1, 2)):
        u = torch.cat((torch.randn(60) * 3, torch.tensor([0.0, 0.29, -0.29, 1.25, 99.9, -1e6, 0.009])))
        spikes = codec(layers, integer_digits, 1, name).encode(u[None].to(device))
        assert spikes.counts.dtype == torch.int8 and spikes.counts.shape == (layers, 1, len(u))
        for column, value in zip(spikes.counts[:, 0].T.tolist(), u.tolist(), strict=True):
            shifted = (abs(Decimal(value)) * 10 ** Decimal(layers - integer_digits)).quantize(Decimal(1), rounding)
            whole = min(int(shifted), 10**layers - 1)
            expected = [int(digit) * (-1 if value < 0 else 1) for digit in str(whole).zfill(layers)]
            assert column == expected, value


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_time_steps_divide_the_error(steps: int) -> None:
    """What a step cuts off is carried on, so T steps together cut off less than one unit: 1/T on average."""
    u = torch.rand(4, 500) * 18 - 9
    spikes = codec(2, 1, steps).encode(u)
    assert spikes.counts.shape == (2 * steps, 4, 500)
    assert ((spikes.decode() - u).abs() <= 0.1 / steps + 1e-5).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_unfolded_spikes_sum_to_the_digits(steps: int, device: torch.device) -> None:
    encoder = codec(4, 1, steps)
    counts = encoder.encode(torch.randn(6, 33, device=device)).counts
    train = encoder.unfold(counts)
    assert train.shape == (9, *counts.shape) and set(train.unique().tolist()) <= {-1, 0, 1}
    assert torch.equal(train.sum(0, dtype=torch.int8), counts)
    assert torch.equal(train.abs().sum(0, dtype=torch.int8), counts.abs())


def test_a_broken_token_stays_broken() -> None:
    u = torch.randn(3, 8)
    u[1, 2] = torch.nan
    u[2, 3] = torch.inf
    decoded = codec(3).encode(u).decode()
    assert decoded[0].isfinite().all() and not decoded[1:].isfinite().any()


@pytest.mark.parametrize("rotation", ["none", "gamma-sqp"])
@pytest.mark.parametrize("time_steps", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_executions_agree_with_the_formula(
    rotation: str, time_steps: int, dtype: torch.dtype, make_linear: Callable[..., Any], device: torch.device
) -> None:
    """y = Σ_i W_i ((-1)^f ⊙ d_i) Wᵀ with integer weights: every execution, bit for bit."""
    settings = {"bits": "4-1.58", "codec": "multihead", "time_steps": time_steps, "rotation": rotation}
    linear = make_linear(**settings)[0].to(device, dtype)
    x = torch.randn(2, 5, 72, device=device, dtype=dtype)
    u = x.float() if rotation == "none" else Rotation(72, linear.scheme.rotation.seed)(x)
    encoder = codec(3, 2, time_steps)
    digits, weight = encoder.encode(u).counts, linear.integers()
    total: Any = 0.0
    for plane, worth in zip(digits, encoder.plane_weights(), strict=True):
        acc = (plane.long()[..., None, :] * weight.long()).sum(-1)
        total = total + acc.float() * torch.tensor(worth, dtype=torch.float32) * linear.weight_scale
    expected = (total + linear.bias.float()).to(dtype)
    for execution in ("auto", "dense", "events", "unfold"):
        set_execution(linear, execution)
        assert torch.equal(linear(x), expected), execution


def test_float_weights_see_the_decoded_input(make_linear: Callable[..., Any]) -> None:
    linear, plain = make_linear(codec="multihead", layers=5)
    assert linear.scheme.weights.bits == 16 and linear.scheme.rotation.is_none and linear.scheme.bits == "16-5L"
    x = torch.rand(4, 72) * 18 - 9
    decoded = codec(5).encode(x).decode()
    torch.testing.assert_close(linear(x), plain(decoded), rtol=0, atol=1e-5)
    assert ((decoded - x).abs() <= 1e-3 + 5e-6).all()  # the last digit, and five roundings of numbers below 10


def test_three_costs_of_a_digit(make_linear: Callable[..., Any]) -> None:
    """Graded events, ones of the binary digits and unary spikes, by hand: 7 = 0b111, 2 = 0b10, 5 = 0b101."""
    linear, _ = make_linear(3, 5, codec="multihead", integer_digits=1)
    with Recorder(torch.nn.Sequential(linear)) as recorder:
        linear(torch.tensor([[7.0, -0.25, 0.0]]))
    counted = recorder.statistics["0"]
    assert (counted.tokens, counted.inputs, counted.planes) == (1, 3, 3)
    assert (int(counted.zeros), int(counted.ones), int(counted.spikes)) == (6, 3 + 1 + 2, 7 + 2 + 5)


def test_schemes_choose_the_codec() -> None:
    assert codec_of(SpikeConfig.parse({"codec": "multihead", "layers": 4}).inputs) == codec(4)
    assert SpikeConfig.parse({"codec": "multihead", "layers": 4, "time_steps": 2}).inputs.virtual_steps == 8
    config = SpikeConfig.parse({"overrides": [{"pattern": "down", "settings": {"codec": "multihead"}}]})
    down = config.for_linear("model.layers.0.mlp.down_proj", "down")
    assert down is not None and (down.weights.bits, down.rotation.kind, down.bits) == (4, "gamma-sqp", "4-3L")
