"""Weights are converted in blocks of rows, and no more units at once than there is room for."""

import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from spikeconv.config import SpikeConfig
from spikeconv.conversion import linear, produce
from spikeconv.conversion.demand import check_memory, peak_of, resident_bytes, working_bytes
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.work import Unit, Work
from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource
from spikeconv.weights import quantize_blocks, quantize_rtn, to_nearest

Fixture = Callable[..., Any]


def test_a_source_gives_the_same_rows_in_blocks(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    for name in source.names():
        if len(source.shape(name)) == 2:
            whole = source.load(name)
            for rows in (1, 7, len(whole), 10 * len(whole)):
                blocks = [block.clone() for block in source.blocks(name, rows)]
                assert torch.equal(torch.cat(blocks), whole)
                assert all(len(block) == rows for block in blocks[:-1])


def test_blocks_round_as_the_whole() -> None:
    weight = torch.randn(37, 88, generator=torch.Generator().manual_seed(1))
    weight[5] = 0
    for search, rows in product((False, True), (1, 8, 36, 37)):
        whole = quantize_rtn(weight, 4, search)
        found = quantize_blocks(weight.split(rows), 37, to_nearest(4, search))
        for ours, theirs in zip(found[:3], whole[:3], strict=True):
            assert torch.equal(ours, theirs)
        assert found.relative_error == pytest.approx(whole.relative_error, rel=1e-6)
    weight[30, 2] = torch.inf
    with pytest.raises(SpikeconvError, match="Row 30"):
        quantize_blocks(weight.split(8), 37, to_nearest(4, True))


@pytest.mark.parametrize("settings", [{}, {"rotation": "quarot"}, {"bits": "6-1"}, {"rotation": "none"}])
def test_the_block_does_not_show(
    tiny_checkpoint: Fixture, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    plan = make_plan(source, SpikeConfig.parse(settings))

    def converted() -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        produce.produce(source, plan, None, lambda unit, made: found.update(made.tensors))
        return found

    whole = converted()
    for block in (1, 1000):
        monkeypatch.setattr("spikeconv.conversion.work.BLOCK", block)
        found = converted()
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert linear.BLOCK >= 1 << 16  # with which they were made


def test_units_wait_for_room(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    plan = make_plan(source, SpikeConfig())
    needs = working_bytes(source, plan, output_specs(source, plan, None))
    room = max(needs.values()) * 2
    assert peak_of(needs, 8) > room
    lock, most, now = threading.Lock(), [0], [0]
    original = produce.Work.process

    def counted(self: Any, unit: str, statistics: Any = None) -> Unit:
        with lock:
            now[0] += needs[unit]
            most[0] = max(most[0], now[0])
        try:
            threading.Event().wait(0.005)
            return original(self, unit, statistics)
        finally:
            with lock:
                now[0] -= needs[unit]

    found: dict[str, torch.Tensor] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(produce.Work, "process", counted)
        produce.produce(source, plan, None, lambda unit, made: found.update(made.tensors), jobs=8, room=room)
    assert max(needs.values()) <= most[0] <= room
    assert len(found) >= len(source.names())


def test_every_device_makes_the_same_bytes(tiny_checkpoint: Fixture, device: torch.device) -> None:
    source = HfSource(tiny_checkpoint("qwen2"))
    for settings in ({}, {"rotation": "quarot"}, {"bits": "4-16"}, {"codec": "multihead", "rotation": "none"}):
        plan = make_plan(source, SpikeConfig.parse(settings))
        wanted, found = Work(source, plan, None), Work(source, plan, None, device)
        for name in plan.tensors:
            pairs = zip(wanted.process(name).tensors.items(), found.process(name).tensors.items(), strict=True)
            assert all(n == m and t.dtype == u.dtype and torch.equal(t, u) for (n, t), (m, u) in pairs), (
                settings,
                name,
            )


def test_memory_is_counted_before_anything_is_read(tiny_checkpoint: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    plan = make_plan(source, SpikeConfig())
    monkeypatch.setattr("spikeconv.conversion.demand.resident_bytes", lambda: 10**6)
    largest = max(working_bytes(source, plan, output_specs(source, plan, None)).values())
    assert check_memory(source, plan, None, 10**6 + largest) == largest
    with pytest.raises(SpikeconvError, match="beside the 1 MB of the program"):
        check_memory(source, plan, None, 10**6 + largest - 1)


def test_resident_bytes_follow_what_is_held() -> None:
    before = resident_bytes()
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert 56 << 20 <= resident_bytes() - before <= 96 << 20
    del held
