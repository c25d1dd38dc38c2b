"""The benchmarks run, and their numbers mean what they say; how large they are is no test."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spikeconv.bench.attention import bench_attention
from spikeconv.bench.kernels import bench_kernels
from spikeconv.bench.limits import measure_limits
from spikeconv.bench.models import bench_model
from spikeconv.bench.peers import PEERS
from spikeconv.bench.shapes import CACHES, SHAPES, CacheShape, Shape
from spikeconv.bench.timing import median_seconds
from spikeconv.errors import SpikeconvError
from spikeconv.ops.native import Backend

SMALL = Shape("tiny", "q|k|v", 64, (32, 32))


def test_medians_are_of_turns() -> None:
    order: list[str] = []

    def busy() -> None:
        begin = time.thread_time()
        while time.thread_time() < begin + 0.01:
            pass

    taken = median_seconds({"a": lambda: order.append("a"), "b": busy}, 0.001)
    assert taken["b"] >= 0.01 > taken["a"]
    assert len(order) >= 6  # warm-up and five turns


def test_shapes_are_those_of_the_models() -> None:
    total = {name: sum(shape.weights for shape in group) for name, group in SHAPES.items()}
    assert total["smollm2-135m"] * 30 == 106_168_320
    assert total["llama2-7b"] * 32 == 6_476_005_376


def test_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = measure_limits(0.01)
    assert min(limits.macs, limits.cache, limits.dram) > 0 and limits.threads == torch.get_num_threads()
    monkeypatch.setattr("spikeconv.bench.kernels.DRAM_BYTES", 1 << 16)
    rows = list(bench_kernels([SMALL], limits, [1, 9], [0.5], 0.001))
    assert [row.op for row in rows] == ["dense", "encode", "dense", "encode", "events", "rtn", "rtn search"]
    assert all(row.seconds > 0 and row.fraction > 0 for row in rows)
    assert rows[0].limit == "dram" and rows[2].limit == "macs"
    assert rows[2].fraction == pytest.approx(9 * SMALL.weights / rows[2].seconds / limits.macs)
    for limit in ("macs", "dram"):  # a kernel cannot be faster than the machine
        low = replace(limits, **{limit: rows[0].rate / 1e6})
        with pytest.raises(SpikeconvError, match=f"of the limit {limit} .* measured wrong"):
            list(bench_kernels([SMALL], low, [1 if limit == "dram" else 9], [0.5], 0.001))
    assert limits.share("macs", 1.05 * limits.macs) == pytest.approx(1.05)
    assert "fp32 linear" in rows[0].ratios and rows[4].ratios.keys() == {"our dense"}


def test_rows_of_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = measure_limits(0.01)
    monkeypatch.setattr("spikeconv.bench.attention.DRAM_BYTES", 1 << 16)
    rows = list(bench_attention([CacheShape("tiny", 4, 2, 16)], limits, [5, 40], 0.001))
    assert [(row.op, row.tokens) for row in rows] == [
        ("append", 1), ("append", 5), ("append", 40), ("attend", 5), ("attend", 40)
    ]  # fmt: skip
    assert rows[0].ratios.keys() == {"bf16 copy"} and rows[4].ratios.keys() == {"bf16 sdpa", "fp32 sdpa"}
    row_bytes = 16 // 2 + 4
    assert rows[4].fraction == pytest.approx(2 * 2 * 40 * row_bytes / rows[4].seconds / limits.dram)


def test_caches_are_those_of_the_models() -> None:
    for name, cache in CACHES.items():
        hidden, group = SHAPES[name][0].inputs, SHAPES[name][0].outputs
        assert group == (hidden, *[cache.key_heads * cache.head_dim] * 2) and hidden == cache.heads * cache.head_dim


@pytest.mark.parametrize("name", ["fp32 linear", "bf16 linear", "_int_mm"])
def test_peers_compute_the_same_product(name: str) -> None:
    counts, weight = torch.randint(-8, 8, (20, 64)).float(), torch.randint(-8, 8, (32, 64)).float()
    expected = counts @ weight.T
    torch.testing.assert_close(PEERS[name](counts, weight)().float(), expected, rtol=1e-2, atol=0.5)


@pytest.mark.parametrize("name", ["llama", "rwkv", "rwkv6", "rwkv7"])
def test_model_rows(name: str, converted: Callable[..., Path]) -> None:
    rows, parts = bench_model(converted(name), prompt=16, new_tokens=3, seconds=0.001)
    models = ["HF fp32", "HF bf16", "spiking", *(["spiking, bf16 cache"] if name == "llama" else [])]
    assert [(row.run, row.model) for row in rows] == [(run, of) for run in ("prefill 16", "decode") for of in models]
    assert all(row.ratio == 1 for row in rows if row.model == "HF fp32")
    assert [each.run for each in parts] == ([] if name == "rwkv7" else ["prefill 16", "decode"])
    assert all(abs(sum(each.shares.values()) - 1) < 1e-9 and each.milliseconds > 0 for each in parts)


def test_nothing_to_measure_without_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeconv.bench.limits.load", lambda device: Backend("reference", "no compiler"))
    with pytest.raises(SpikeconvError, match="no compiler"):
        measure_limits()


def test_threads_on_one_core_are_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeconv.bench.limits.torch.get_num_threads", lambda: 1 << 20)  # more than there are cores
    with pytest.raises(SpikeconvError, match=r"1048576 threads share \d+ cores?, .* OMP_NUM_THREADS"):
        measure_limits(0.01)
