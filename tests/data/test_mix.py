"""The offline mix is the same every time, and holds nothing of what conversions are measured on."""

import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path

import pytest

from spikeconv.calibrate.windows import Calibration
from spikeconv.data.mix import mixed_documents
from spikeconv.data.offline import OFFLINE_TASKS, boolq_passages
from spikeconv.sources.hf import HfSource

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return mixed_documents()


def test_no_document_is_of_a_text_that_is_measured_on(documents: list[str]) -> None:
    """No line of eight words or more of PIQA, ARC, BoolQ or Python's documentation is one of a document."""
    measured = [*boolq_passages().split("\n\n"), *"\n".join(pydoc_data.topics.topics.values()).split("\n")]
    for task in ("piqa", "arc_easy", "arc_challenge"):
        for rows in OFFLINE_TASKS[task].load().values():
            measured += [row.get("goal") or row.get("question") for row in rows]
    lines = {line for text in measured if len((line := text.strip().lower()).split()) >= 8}
    found = {line for document in documents for line in map(str.strip, document.lower().split("\n"))}
    assert len(documents) == len(set(documents)) > 20_000 and len(lines) > 10_000
    assert not lines & found


def test_the_seed_chooses(documents: list[str], tiny_checkpoint: Callable[..., Path]) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    texts = [Calibration(calibration_seed=seed, calibration_tokens=640).read(source) for seed in (0, 0, 1)]
    assert texts[0].record == texts[1].record and texts[0].record["text"] == "mixed"
    assert texts[0].windows.shape == (10, 64) and texts[0].windows.equal(texts[1].windows)
    assert not texts[0].windows.equal(texts[2].windows)
    assert all(record["ids_sha256"] for record in (text.record for text in texts))
