"""The embedded real model with other settings than the default's. The bounds are those of the method's specification
(docs/benchmarks/rotation.md has the measured numbers); the text is Python's documentation."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_model import TOKENS, WINDOW, python_docs, report

from spikeconv.config import FLOAT_BITS, SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.sources.resolve import open_source

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measure(
    real_source: Path, tmp_path_factory: pytest.TempPathFactory, float_perplexity: float
) -> Iterator[Callable[..., tuple[float, Any]]]:
    """`measure(**settings)`: perplexity relative to the float model's, and the firing report."""
    work = tmp_path_factory.mktemp("settings")

    def run(**settings: Any) -> tuple[float, Any]:
        config = SpikeConfig.parse(settings)
        opened = open_source(real_source)
        out = work / "model"
        convert(opened, make_plan(opened, config), out, writing=Writing(force=True))
        loaded = load_checkpoint(out)
        found = perplexity(loaded, python_docs(), window=WINDOW, max_tokens=TOKENS).perplexity
        return found / float_perplexity, None if config.inputs.bits == FLOAT_BITS else report(loaded, 256)

    yield run
    shutil.rmtree(work)


def test_quarot_loses_more(measure: Callable[..., tuple[float, Any]]) -> None:
    quarot, _ = measure(rotation="quarot")
    gamma_sqp, _ = measure()
    assert 4 <= quarot <= 6
    assert gamma_sqp <= 0.6 * quarot


def test_without_rotation_nothing_is_left(measure: Callable[..., tuple[float, Any]]) -> None:
    ratio, _ = measure(rotation="none")
    assert ratio >= 50


def test_twice_the_steps(measure: Callable[..., tuple[float, Any]]) -> None:
    ratio, _ = measure(steps=16)
    assert ratio <= 1.9


def test_six_bits(measure: Callable[..., tuple[float, Any]]) -> None:
    ratio, _ = measure(bits="6-1.58")
    assert ratio <= 1.10


def test_binary_spikes(measure: Callable[..., tuple[float, Any]]) -> None:
    ratio, firing = measure(bits="4-1")
    assert ratio <= 2.6
    assert firing.total.firing_rate == pytest.approx(0.5, abs=0.02)


def test_keys_and_values_as_counts(measure: Callable[..., tuple[float, Any]]) -> None:
    """METHOD, section 1: 1.076 and 1.010 of the float perplexity, everything else in float."""
    exact = {"bits": "16-16", "rotation": "none"}
    assert measure(**exact, kv_bits=4)[0] <= 1.08
    assert measure(**exact, kv_bits=6)[0] <= 1.012
