"""Linears with one input encode it once, and never see counts that are not theirs."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from spikeconv.codecs import SpikeCounts
from spikeconv.config import SpikeConfig
from spikeconv.nn import Encoder


class Counted:
    """Three linears with one encoder, which notes every encode."""

    def __init__(self, make_linear: Callable[..., Any]) -> None:
        self.encoder = Encoder(72, SpikeConfig())
        self.linears = [make_linear(encoder=self.encoder)[0] for _ in range(3)]
        self.encoded: list[SpikeCounts] = []
        self.encoder.observer = self.encoded.append


@pytest.fixture
def group(make_linear: Callable[..., Any]) -> Counted:
    return Counted(make_linear)


def alone(linear: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the linear gives with an encoder of its own."""
    single = copy.deepcopy(linear)
    single.encoder = Encoder(72, SpikeConfig())  # type: ignore[assignment]
    single.encoder.members.append("alone")
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
    group.linears[0](x)
    counts = weakref.ref(group.encoded[0].counts)
    group.encoded.clear()
    group.linears[1](x)
    gc.collect()
    assert counts() is not None
    group.linears[2](x)
    gc.collect()
    assert counts() is None
    group.linears[0](x)
    assert len(group.encoded) == 1


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
    assert twin[0].encoder is twin[1].encoder is twin[2].encoder
    assert twin[0].encoder is not model[0].encoder
    encoded: list[SpikeCounts] = []
    twin[0].encoder.observer = encoded.append
    outputs = [linear(x) for linear in twin]
    assert len(encoded) == 1 and len(group.encoded) == 1
    assert all(torch.equal(y, alone(linear, x)) for y, linear in zip(outputs, model, strict=True))
