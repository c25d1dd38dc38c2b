"""A plan owns what it points to, and goes with whatever it was made of."""

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.config import SpikeConfig
from spikeconv.nn import FoldedNorm, SpikeGroup, SpikeLinear, set_execution
from spikeconv.ops import native
from spikeconv.rotation import transform

MakeLinear = Callable[..., tuple[SpikeLinear, torch.nn.Linear]]


@pytest.fixture
def members(make_linear: MakeLinear) -> list[SpikeLinear]:
    """Two linears with one input behind a norm, arranged for the native kernels, planned by a first forward."""
    assert native.load("cpu").is_native
    norm = FoldedNorm(torch.nn.Parameter(torch.ones(72)), 1e-5)
    torch.nn.init.uniform_(norm.weight, 0.5, 2).requires_grad_(False)
    group = SpikeGroup(72, SpikeConfig(), norm)
    linears = [make_linear(out_features=n, group=group)[0] for n in (40, 19)]
    set_execution(torch.nn.ModuleList(linears), "auto")
    planned(linears, torch.randn(2, 72))
    return linears


@torch.no_grad()
def planned(linears: list[SpikeLinear], x: Tensor) -> list[Tensor]:
    outputs = [linear(x) for linear in linears]
    assert linears[0].group.plan() is not None
    return outputs


@torch.no_grad()
def steps(linears: list[SpikeLinear], x: Tensor) -> list[Tensor]:
    """The same without a plan: an observer wants every step by itself."""
    observers = linears[0].encoder.observers
    observers.append(lambda spikes: None)
    outputs = [linear(x.clone()) for linear in linears]
    observers.pop()
    return outputs


def check(linears: list[SpikeLinear], x: Tensor | None = None) -> list[Tensor]:
    x = torch.randn(3, 72) if x is None else x
    outputs = planned(linears, x)
    assert all(map(torch.equal, outputs, steps(linears, x)))
    return outputs


def test_rotations_may_be_forgotten(members: list[SpikeLinear]) -> None:
    x = torch.randn(3, 72)
    before = planned(members, x)
    transform._tensors.cache_clear()
    gc.collect()
    for _ in range(50):  # whatever was freed is written over
        torch.full((72,), float("nan"))
    assert all(map(torch.equal, planned(members, x.clone()), before))


def test_layouts_one_after_the_other(members: list[SpikeLinear]) -> None:
    """An address that was freed and taken again is not the weight that lay there."""
    for forward in range(100):
        for layout in ("columns", "packed", "tiles") if forward % 2 else ("tiles", "packed", "columns"):
            for linear in members:
                linear.arrange(layout)  # type: ignore[arg-type]
        check(members)


def test_tensors_moved_inside_their_objects(members: list[SpikeLinear]) -> None:
    first = members[0]
    norm = first.encoder.norm
    assert norm is not None and first.bias is not None and first.weight_scale is not None
    for tensor in (first.weight, first.weight_scale, first.bias, norm.weight):
        for _ in range(20):
            tensor.data = tensor.data.flip(0).contiguous()
            check(members)


def test_another_codec(members: list[SpikeLinear]) -> None:
    """T' from 8 to 16 after the first forward."""
    x = torch.randn(3, 72)
    encoder = members[0].encoder
    before = check(members, x)
    encoder.codec = replace(encoder.codec, count_min=-16, count_max=15)  # type: ignore[type-var]
    after = check(members, x.clone())
    assert not torch.equal(before[0], after[0])
    encoder.scheme = SpikeConfig.parse({"bits": "4-1.58", "steps": 8})
    assert all(map(torch.equal, check(members, x.clone()), before))
    encoder.scheme = SpikeConfig.parse({"bits": "4-1.58", "steps": 16})
    assert not torch.equal(check(members, x.clone())[0], before[0])


def test_another_norm_rotation_or_execution(members: list[SpikeLinear]) -> None:
    encoder = members[0].encoder
    assert encoder.norm is not None
    encoder.norm.epsilon = 0.5
    check(members)
    encoder.norm.weight = torch.nn.Parameter(torch.rand(72), requires_grad=False)
    check(members)
    encoder.norm = None
    check(members)
    encoder.rotation = transform.Rotation(72, 9)
    check(members)
    set_execution(torch.nn.ModuleList(members), "events")
    check(members)


def test_codec_or_weight_changed_between_two_members(members: list[SpikeLinear]) -> None:
    """What was computed for the second member was computed with what it had then."""
    first, second = members
    x = torch.randn(3, 72)

    def double() -> None:
        assert second.weight_scale is not None
        second.weight_scale *= 2

    def exchange() -> None:
        second.weight = second.weight.flip(0).contiguous()

    def load() -> None:
        second.load_state_dict({**second.state_dict(), "bias": torch.rand(19)})

    def codec() -> None:
        first.encoder.scheme = SpikeConfig.parse({"bits": "4-1.58", "steps": 16})

    for change in (double, exchange, load, codec):
        with torch.no_grad():
            first(x)
            change()
            assert torch.equal(second(x), steps(members, x)[1]), change.__name__


def test_operands_live_as_long_as_the_plan(members: list[SpikeLinear]) -> None:
    first = members[0]
    plan, weight = first.group.plan(), weakref.ref(first.weight)
    assert plan is not None
    first.weight = first.weight.clone()
    gc.collect()
    assert weight() is not None and first.group.plan() is not plan
    del plan
    gc.collect()
    assert weight() is None


def test_a_plan_goes_with_the_device(members: list[SpikeLinear]) -> None:
    weight = weakref.ref(members[0].weight)
    torch.nn.ModuleList(members).to("meta")
    gc.collect()
    assert weight() is None and members[0].group.plan() is None


def test_one_plan_for_many_forwards(members: list[SpikeLinear]) -> None:
    plan = members[0].group.plan()
    check(members)
    assert members[0].group.plan() is plan


def test_threads_with_one_input(make_linear: MakeLinear) -> None:
    for native_layout in (False, True):
        group = SpikeGroup(72, SpikeConfig())
        linears = [make_linear(out_features=n, group=group)[0] for n in (19, 32, 8)]
        if native_layout:
            set_execution(torch.nn.ModuleList(linears), "auto")
        x = torch.randn(5, 72)
        with torch.no_grad():
            expected = [linear(x) for linear in linears]
        failures: list[BaseException] = []

        def run(linears: Any = linears, x: Any = x, expected: Any = expected, failures: Any = failures) -> None:
            try:
                with torch.no_grad():
                    for _ in range(300):
                        assert all(torch.equal(linear(x), y) for linear, y in zip(linears, expected, strict=True))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
