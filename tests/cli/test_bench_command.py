"""`spikeconv bench` as typed."""

from typing import Any

import pytest

from spikeconv.bench.shapes import Shape

SMALL = Shape("tiny", "q|k|v", 512, (256, 256))  # a smaller one takes long: copies of it must fill the caches


def test_command(spikeconv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeconv.bench.shapes.SHAPES", {"tiny": (SMALL,)})
    arguments = ("bench", "--shapes", "tiny", "--tokens", "1,5", "--nonzero", "0.5", "--seconds", 0.01)
    result = spikeconv(*arguments, "--json").json
    assert result["limits"]["macs"] > 0 and len(result["kernels"]) == 7
    assert "GMAC/s" in spikeconv(*arguments).out
