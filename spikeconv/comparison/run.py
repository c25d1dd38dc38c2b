"""A comparison: what is known of each column, then what is missing and wanted, then the table."""

from collections.abc import Callable, Collection, Mapping, Sequence

from spikeconv.comparison.columns import Column, float_results, gather
from spikeconv.comparison.measure import PROMPT, Loading, measure, measure_speed
from spikeconv.comparison.missing import Question, Tasks, Text, missing_questions, missing_spikes, missing_tasks
from spikeconv.comparison.outline import outlined_work
from spikeconv.comparison.rows import make_table
from spikeconv.comparison.subjects import Subject
from spikeconv.comparison.table import Table
from spikeconv.config import SpikeConfig
from spikeconv.progress import Track, silent
from spikeconv.record.text import WINDOW as READ
from spikeconv.report.profiles import EnergyProfile

__all__ = ["MEASURES", "compare"]

MEASURES = ("spikes", "perplexity", "tasks", "speed")


def compare(
    subjects: Sequence[Subject],
    *,
    wanted: Collection[str],
    text: Text,
    question: Callable[[], Question],
    tasks: Tasks | None,
    named: bool,
    profiles: Mapping[str, EnergyProfile],
    loading: Loading,
    track: Track = silent,
    note: Callable[[str], None] = lambda text: None,
) -> Table:
    """Compare checkpoints, recordings and float models.

    Args:
        subjects: the columns.
        wanted: which of `MEASURES` are run where they are missing; what evaluations left behind is always used.
        text: what spikes are counted on.
        question: gives the perplexity that is wanted; called if one is.
        tasks: to score; None: those that any column has answered.
        named: whether the user named the text or how much of it.
        profiles: energy profiles by name.
        loading: how models are loaded.
        track: progress display.
        note: told, in a sentence, what happens.

    Raises:
        SpikeconvError: something cannot be read, loaded or run.
    """
    columns = [gather(subject, trust_remote_code=loading.trust_remote_code) for subject in subjects]
    float_results(columns)
    models = [column for column in columns if column.subject.kind != "recording"]
    behind = missing_spikes(columns, text, named)
    if named or "spikes" in wanted:
        for column in behind:
            column.recording = column.work = None  # of another text than the others'
    asked = question() if "perplexity" in wanted else None
    plans = {
        column.name: (
            text if "spikes" in wanted and column in behind else None,
            [] if asked is None else missing_questions(column, columns, asked, named),
            missing_tasks(column, columns, tasks) if "tasks" in wanted else [],
        )
        for column in models
    }
    for column in models:
        spikes, questions, missing = plans[column.name]
        if spikes is not None or questions or missing:
            note(f"running {column.name}")
        measure(column, loading, spikes=spikes, questions=questions, tasks=missing, track=track, note=note)
    if "speed" in wanted:
        note(f"timing {', '.join(column.name for column in models)}")
        measure_speed(models, loading)
    _outline(columns, text)
    return make_table(columns, profiles, PROMPT)


def _outline(columns: Sequence[Column], text: Text) -> None:
    """What float models compute on the text that the others read."""
    recorded = next((column.recording for column in columns if column.recording is not None), None)
    whole, rest = divmod(text.tokens, READ)
    sequences = (*[READ] * whole, *([rest] if rest else [])) if recorded is None else recorded.record.sequences
    for column in columns:
        if column.source is not None:
            column.work = outlined_work(
                column.source, SpikeConfig.parse({"bits": "16-16", "rotation": "none"}), sequences, 0.0
            )
            column.tokens = sum(sequences)
