"""Whether `verify` sends counts through every temporal code, and sees a code that says another count."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.codes import CODES, Code
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import SpikeLinear
from spikeconv.verification.codes import LINEARS, MOST_SLOTS, compare_codes, sampled
from spikeconv.verification.run import verify

RAMP: dict[str, Any] = {"count_scale": "rms", "temporal_code": "ramp", "slots": 24}
"""Counts up to 300."""


def broken(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the largest count lose its last spike."""
    kind, digits = type(code), type(code).digits

    def wrong(self: Code, largest: int) -> Tensor:
        table = digits(self, largest)
        table[table[:, largest].nonzero()[-1], largest] = 0
        return table

    monkeypatch.setattr(kind, "digits", wrong)


@pytest.mark.parametrize("settings", [{}, {"bits": "4-1"}, RAMP], ids=str)
def test_every_code_gives_what_dense_gives(
    settings: dict[str, Any], converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_checkpoint(converted("llama", **settings), device="cpu")
    result = verify(loaded, "What was sent is what was counted.", tokens=8, source=False)
    assert result.clean and result.code_accumulators > 0 and not result.different_codes
    for name, code in CODES.items():
        with monkeypatch.context() as patch:
            broken(code, patch)
            found = verify(loaded, "What was sent is what was counted.", tokens=8, source=False)
        # A largest count is always among those of a token: the table is as long as they are.
        assert not found.clean and any(f"({name})" in each for each in found.different_codes)
        assert {each.split("(")[1] for each in found.different_codes} <= {f"{name})", f"its own {name})"}


def test_counts_of_any_range(make_linear: Callable[..., Any]) -> None:
    linear: SpikeLinear = make_linear(**RAMP)[0]
    counts = torch.randint(-300, 301, (3, 5, linear.in_features), dtype=torch.int16)
    counts[0, 0, 0] = -300
    tables = len(CODES) + 1
    assert compare_codes(linear, counts).accumulators == tables * 2 * linear.out_features
    assert compare_codes(linear, counts[:1, :1]).accumulators == tables * linear.out_features
    assert not compare_codes(linear, counts).different and not compare_codes(linear, 0 * counts).different
    linear = make_linear(**{"inputs.bits": 11, "temporal_code": "binary"})[0]
    counts[0, 0, 0] = MOST_SLOTS + 1  # too many slots of unary, and of a ramp that sends a count by one spike
    check = compare_codes(linear, counts)
    assert check.accumulators == 3 * 2 * linear.out_features and not check.different


def test_a_sample_is_small_and_of_all_roles() -> None:
    for roles in (6, 7):
        for layers in (1, 2, 12, 30, 80):
            names = [f"{layer}.{role}" for layer in range(layers) for role in range(roles)]
            chosen = sampled(names)
            assert 1 <= len(chosen) <= LINEARS and names[0] in chosen
            if layers > 2:
                assert len({name.split(".")[1] for name in chosen}) == min(len(chosen), roles)
    assert sampled([]) == set()
