"""The paper's operation counts (SDLLM, tables 3, 12 and A1) from its own firing rates."""

import pytest
from transformers import LlamaConfig

from spikeconv.config import SpikeConfig
from spikeconv.families import FAMILIES
from spikeconv.report.operations import dense_flops, kappa, linear_macs, spiking_flops

TOKENS, LAYERS, HIDDEN, FFN = 1024, 32, 4096, 11008
LINEARS = LAYERS * (4 * linear_macs(TOKENS, HIDDEN, HIDDEN) + 3 * linear_macs(TOKENS, HIDDEN, FFN))
LLAMA2_7B = LINEARS + FAMILIES["llama"].float_macs(LlamaConfig(), TOKENS)["attention"]
MAC, AC = 4.6, 0.9  # pJ at 45 nm, appendix A.2


def scheme(bits: str) -> SpikeConfig:
    return SpikeConfig.parse({"bits": bits})


def test_multiply_accumulates_of_llama2_7b() -> None:
    assert pytest.approx(6.906e12, rel=1e-4) == LLAMA2_7B


def test_dense_and_spiking_rows() -> None:
    for widths, flops, joules in (((4, 4), 0.86, 3.97), ((6, 6), 1.94, 8.94)):
        dense = dense_flops(LLAMA2_7B, *widths) / 1e12
        assert dense == pytest.approx(flops, abs=0.006) and dense * MAC == pytest.approx(joules, abs=0.01)
    for bits, rate, flops, joules in (
        ("4-1.58", 0.216, 0.75, 0.67),
        ("4-1", 0.5, 1.62, 1.46),
        ("6-1.58", 0.222, 4.60, 4.14),
        ("6-1", 0.5, 10.20, 9.18),
    ):
        spiking = spiking_flops(LLAMA2_7B, scheme(bits), rate * scheme(bits).inputs.virtual_steps) / 1e12
        assert spiking == pytest.approx(flops, abs=0.006) and spiking * AC == pytest.approx(joules, abs=0.01), bits


def test_rows_of_table_a1() -> None:
    for bits, rate, shape, gflops in (
        ("4-1.58", 0.2230, (HIDDEN, HIDDEN), 1.92),
        ("4-1.58", 0.2028, (HIDDEN, HIDDEN), 1.74),
        ("4-1.58", 0.2189, (HIDDEN, FFN), 5.05),
        ("6-1.58", 0.2133, (FFN, HIDDEN), 29.54),
    ):
        found = spiking_flops(linear_macs(TOKENS, *shape), scheme(bits), rate * scheme(bits).inputs.virtual_steps) / 1e9
        assert found == pytest.approx(gflops, abs=0.01), (bits, rate)


def test_float_sides_count_whole() -> None:
    assert kappa(16, 4) == kappa(4, 16) == 1
    assert kappa(4, 4) == 1 / 8 and kappa(6, 6) == 9 / 32


def test_counts_sent_whole_cost_a_dense_product() -> None:
    assert spiking_flops(1000, scheme("4-4"), 1.7) == dense_flops(1000, 4, 4)
