"""Linears with one input encode it once, and never give an output that is not theirs."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from spikeconv.codecs import SpikeCounts
from spikeconv.config import SpikeConfig
from spikeconv.nn import FoldedNorm, SpikeGroup, SpikeLinear
from spikeconv.ops import rms_norm


class Counted:
    """Three linears of one group, whose encoder notes every encode."""

    def __init__(self, make_linear: Callable[..., Any]) -> None:
        self.group = SpikeGroup(72, SpikeConfig())
        self.linears = [make_linear(out_features=n, group=self.group)[0] for n in (19, 32, 8)]
        self.encoded: list[SpikeCounts] = []
        self.group.encoder.observers.append(self.encoded.append)


@pytest.fixture
def group(make_linear: Callable[..., Any]) -> Counted:
    return Counted(make_linear)


def alone(linear: SpikeLinear, x: torch.Tensor) -> torch.Tensor:
    """What the linear gives in a group of its own."""
    group = SpikeGroup(72, linear.scheme, linear.encoder.norm)
    single = SpikeLinear(72, linear.out_features, linear.scheme, group, bias=linear.bias is not None)
    single.load_state_dict(linear.state_dict())
    result: torch.Tensor = single(x)
    return result


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_one_encode_for_the_group(group: Counted, mode: Callable[..., Any]) -> None:
    with mode():
        for forward in range(1, 4):
            x = torch.randn(5, 72)
            outputs = [linear(x) for linear in group.linears]
            assert len(group.encoded) == forward
    assert all(torch.equal(y, alone(linear, x)) for y, linear in zip(outputs, group.linears, strict=True))


def test_another_tensor_is_encoded(group: Counted) -> None:
    x, other = torch.randn(2, 5, 72).unbind()
    for tensor in (x, other, x.clone(), x):
        assert torch.equal(group.linears[0](tensor), alone(group.linears[0], tensor))
    assert len(group.encoded) == 4


def test_changed_in_place_is_encoded_again(group: Counted) -> None:
    x = torch.randn(5, 72)
    group.linears[0](x)
    x[2] *= 3
    assert torch.equal(group.linears[1](x), alone(group.linears[1], x))
    x.view(-1)[7] += 1  # through a view
    assert torch.equal(group.linears[2](x), alone(group.linears[2], x))
    assert len(group.encoded) == 3


def test_dropped_after_the_last_member(group: Counted) -> None:
    x = torch.randn(5, 72)
    last = weakref.ref(group.linears[0](x))
    assert last() is None  # the caller's
    group.linears[1](x)
    assert group.group._last is not None
    group.linears[2](x)
    assert group.group._last is None
    group.linears[0](x)
    assert len(group.encoded) == 2


def test_one_member_may_be_called_alone(group: Counted) -> None:
    x = torch.randn(5, 72)
    for _ in range(3):
        assert torch.equal(group.linears[1](x), alone(group.linears[1], x))


def test_norm_is_computed_by_the_encoder(make_linear: Callable[..., Any]) -> None:
    plain = torch.nn.RMSNorm(72, 1e-5).requires_grad_(False)
    plain.weight.uniform_(0.5, 2)
    norm = FoldedNorm(plain.weight, 1e-5)
    group = SpikeGroup(72, SpikeConfig(), norm)
    linear = make_linear(group=group)[0]
    x = torch.randn(5, 72) * 7
    torch.testing.assert_close(rms_norm(x, norm.weight, norm.epsilon), plain(x), rtol=1e-6, atol=1e-6)
    unfolded = SpikeLinear(72, 19, linear.scheme, SpikeGroup(72, SpikeConfig()), bias=True)
    unfolded.load_state_dict(linear.state_dict())
    assert norm(x) is x
    assert torch.equal(linear(norm(x)), unfolded(rms_norm(x, norm.weight, norm.epsilon)))


def test_input_is_not_kept_alive(group: Counted) -> None:
    x = torch.randn(5, 72)
    group.linears[0](x)
    reference = weakref.ref(x)
    del x
    gc.collect()
    assert reference() is None


def test_copies_share_among_themselves_only(group: Counted) -> None:
    model = torch.nn.ModuleList(group.linears)
    x = torch.randn(5, 72)
    model[0](x)
    twin = copy.deepcopy(model)
    assert twin[0].group is twin[1].group is twin[2].group
    assert twin[0].group is not model[0].group
    encoded: list[SpikeCounts] = []
    twin[0].encoder.observers.append(encoded.append)
    outputs = [linear(x) for linear in twin]
    assert len(encoded) == 1 and len(group.encoded) == 1
    assert all(torch.equal(y, alone(linear, x)) for y, linear in zip(outputs, model, strict=True))
