"""`spikeconv bench` as typed."""

import re
from typing import Any

import pytest

from spikeconv.bench.kernels import Shape

SMALL = Shape("tiny", "q|k|v", 512, (256, 256))  # a smaller one takes long: copies of it must fill the caches


def test_command(spikeconv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeconv.bench.SHAPES", {"tiny": (SMALL,)})
    arguments = ("bench", "--shapes", "tiny", "--tokens", "1,5", "--nonzero", "0.5", "--seconds", 0.01)
    result = spikeconv(*arguments, "--json").json
    assert result["limits"]["macs"] > 0 and len(result["kernels"]) == 7
    assert "GMAC/s" in spikeconv(*arguments).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shapes", "gpt5"), "Unknown shapes gpt5.*smollm2-135m"),
        (("--tokens", "1,x"), "--tokens must be whole numbers"),
        (("--tokens", "0"), "--tokens must be whole numbers"),
        (("--nonzero", "1.5"), "--nonzero must be numbers above 0 and up to 1"),
    ],
)
def test_bad_arguments(spikeconv: Any, arguments: tuple[str, ...], message: str) -> None:
    result = spikeconv("bench", *arguments)
    assert result.code == 2
    assert re.search(message, " ".join(result.err.split()))
