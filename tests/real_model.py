"""What the end-to-end tests on the embedded real model share."""

import pydoc_data.topics
from typing import Any

from spikeconv.data.sample import sample_text
from spikeconv.evaluate.models import LoadedModel
from spikeconv.record.text import record_text
from spikeconv.report.firing_rate import firing_report

__all__ = ["TOKENS", "WINDOW", "python_docs", "report"]

TOKENS, WINDOW = 2048, 1024


def python_docs() -> str:
    """A text that every interpreter carries."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))


def report(loaded: LoadedModel, tokens: int) -> Any:
    """The firing report on so many tokens of the bundled sample."""
    return firing_report(record_text(loaded.model, loaded.tokenizer, sample_text(), tokens=tokens))
