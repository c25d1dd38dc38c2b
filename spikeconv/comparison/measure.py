"""Runs what is missing in a comparison, one model after the other; and speed, in turns, with all of them in memory."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from spikeconv.bench.models import model_calls, speeds
from spikeconv.comparison.columns import Column
from spikeconv.comparison.missing import Question, Tasks, Text
from spikeconv.data.texts import longest_window
from spikeconv.evaluate.classification import classify_tasks
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.evaluate.names import labels_texts
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.evaluate.results import EvaluationResult
from spikeconv.evaluate.stored import (
    result_path,
    save_perplexity,
    save_results,
    stored_of,
    task_question,
    text_question,
)
from spikeconv.evaluate.tasks import evaluate_tasks
from spikeconv.loading import LoadedModel
from spikeconv.progress import Track, silent
from spikeconv.record.about import about, about_text
from spikeconv.record.file import Recording
from spikeconv.record.text import record_text
from spikeconv.sources.float_model import load_float

__all__ = ["DECODED", "PROMPT", "Loading", "measure", "measure_speed"]

PROMPT, DECODED = 512, 48
"""Tokens of the prefill, and tokens decoded, that speed is measured with."""
WINDOW = 2048
"""Tokens of a window of a perplexity, where a model can hold so many."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded: `device`, `dtype`, and whether their own Python code may run."""

    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False

    def load(self, column: Column) -> LoadedModel:
        """The model of a column."""
        if column.source is not None:
            return load_float(column.source, device=self.device, dtype=self.dtype)
        path = column.subject.path
        return load_checkpoint(path, device=self.device, dtype=self.dtype, trust_remote_code=self.trust_remote_code)


def measure(
    column: Column,
    loading: Loading,
    *,
    spikes: Text | None,
    questions: Sequence[Question] = (),
    tasks: Sequence[Tasks] = (),
    track: Track = silent,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Run one model; what it gives goes into its column and, but for spikes, into the checkpoint's `eval` folder.

    Args:
        column: of a checkpoint or a float model.
        loading: how it is loaded.
        spikes: what to count spikes on; None: nothing.
        questions: texts of perplexities.
        tasks: to score.
        track: progress display.
        note: told where results could not be kept.

    Raises:
        SpikeconvError: it cannot be loaded or run.
    """
    if column.source is not None:
        spikes = None
    if spikes is None and not questions and not tasks:
        return
    loaded, path = loading.load(column), None if column.source is not None else column.subject.path
    if spikes is not None and path is not None:
        found = record_text(loaded.model, loaded.tokenizer, spikes.content, tokens=spikes.tokens, track=track)
        column.take(Recording(found, about(loaded.model, path, found, about_text(spikes.content, spikes.label))))
    for question in questions:
        content, most = question.text.content, question.max_tokens
        window = question.window or min(WINDOW, longest_window(loaded.model) or WINDOW, most or WINDOW)
        asked = text_question(content, question.text.label, window, most)
        result = perplexity(loaded, content, window=window, max_tokens=most, track=track)
        column.add(stored_of(result.as_dict(), asked))
        if path is not None:
            with _kept(note):
                save_perplexity(path, asked, result)
    for each in tasks:
        scores = _score(loaded, column, each, track)
        column.add(stored_of(scores.as_dict(), task_question(scores, each.limit, each.num_fewshot)))
        if path is not None:
            with _kept(note):
                file = result_path(path, each.names, each.limit, each.num_fewshot)
                save_results(file, scores, checkpoint=path, limit=each.limit, num_fewshot=each.num_fewshot)
    del loaded
    gc.collect()  # modules and their hooks refer to each other, so the weights would linger beside the next model's


@contextmanager
def _kept(note: Callable[[str], None]) -> Iterator[None]:
    """What cannot be kept is told, and the comparison goes on."""
    try:
        yield
    except OSError as error:
        note(f"Results are not kept beside the checkpoint: {error.strerror or error}.")


def _score(loaded: LoadedModel, column: Column, tasks: Tasks, track: Track) -> EvaluationResult:
    if column.source is None and labels_texts(column.subject.path):
        return classify_tasks(loaded, tasks.names, limit=tasks.limit, track=track)
    return evaluate_tasks(
        loaded, tasks.names, data=tasks.data, limit=tasks.limit, num_fewshot=tasks.num_fewshot, track=track
    )


def measure_speed(columns: Iterable[Column], loading: Loading, seconds: float = 1.0) -> None:
    """Prefill and decode of all models, which take turns; a prefill that takes 20 s has no number.

    Raises:
        SpikeconvError: one cannot be loaded, or is an encoder, which writes nothing.
    """
    columns = list(columns)
    loaded = {column.name: loading.load(column) for column in columns}
    calls = model_calls({name: each.model for name, each in loaded.items()}, PROMPT)
    found = speeds(calls, PROMPT, DECODED, seconds)
    for column in columns:
        column.prefill, column.decode = found.prefill.get(column.name), found.decode[column.name]
        column.compute = loaded[column.name].compute
