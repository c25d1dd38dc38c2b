"""All executions give the same bits, of the products of floats too."""

from collections.abc import Callable
from pathlib import Path

from spikeconv.evaluate.models import load_checkpoint
from spikeconv.verification.run import verify


def test_products_of_floats_do_not_see_a_layout(converted: Callable[..., Path]) -> None:
    for bits in ("4-16", "8-16"):
        loaded = load_checkpoint(converted("qwen2", bits=bits), device="cpu")
        result = verify(loaded, "However the weights lie, a sum has one order.", tokens=8, source=False)
        assert result.clean and result.linears, (bits, result)
