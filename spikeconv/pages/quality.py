"""Scores against spikes: what several checkpoints of one base model paid for fewer spikes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikeconv.evaluate.stored import Found, Stored
from spikeconv.families import FAMILIES
from spikeconv.pages.costs import Point
from spikeconv.pages.explain import Note
from spikeconv.report.model import ModelReport

__all__ = ["Comparison", "Scored", "base_of_report", "comparisons", "missing_results"]


LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Scored:
    """A model on the page.

    Attributes:
        name: on the page.
        report: what was recorded.
        found: results that lie beside its checkpoint; None where only a recording is at hand.
        path: the checkpoint.
    """

    name: str
    report: ModelReport
    found: Found | None = None
    path: Path | None = None

    @property
    def results(self) -> tuple[Stored, ...]:
        """Of this very checkpoint; of two of the same question the last."""
        results = self.found.results if self.found is not None else ()
        return tuple({each.question: each for each in results}.values())


@dataclass(frozen=True)
class Comparison:
    """Checkpoints of one base model that have answered the same question.

    Attributes:
        base: name of the base model.
        result: one of them, for the question.
        points: of two checkpoints at least.
        baseline: the float model's; None where it is not known, or not one.
        texts_differ: whether their spikes were counted on different texts.
        computed_alike: whether all were measured with one dtype on one kind of device.
    """

    base: str
    result: Stored
    points: tuple[Point, ...]
    baseline: float | None
    texts_differ: bool
    computed_alike: bool

    @property
    def higher_is_better(self) -> bool:
        """Whether it is: perplexities are not."""
        return self.result.metric not in LOWER

    @property
    def of(self) -> str:
        """What was measured, in words."""
        asked, how = self.result.asked, self.result.how
        if "window" in asked:
            return f"{how.get('tokens'):,} tokens of {asked.get('label')} in windows of {asked['window']:,}"
        shots = f", {asked['num_fewshot']} examples each" if asked.get("num_fewshot") else ""
        return f"{asked.get('n'):,} documents ({asked.get('split')}, {asked.get('data')}{shots})"


def base_of_report(report: ModelReport) -> tuple[str, str]:
    """What must be equal for scores to be compared, and the name of it: the base model, or, unrecorded, the shapes."""
    base = (report.about.get("checkpoint") or {}).get("base")
    if isinstance(base, dict) and base.get("sha256"):
        return str(base["sha256"]), str(base.get("name") or "one base model")
    first = report.inputs[0].record if report.inputs else None
    key = f"{first and (first.name, first.in_features, first.out_features)}, {report.totals.linears}"
    return key, "a base model that is not recorded"


def comparisons(models: Sequence[Scored]) -> list[Comparison]:
    """Questions that two checkpoints of the same base model have answered, in the order in which they come."""
    groups: dict[tuple[str, str], list[tuple[Scored, Stored]]] = {}
    for model in models:
        for result in model.results:
            if model.report.totals.spikes_per_input is not None:
                groups.setdefault((base_of_report(model.report)[0], result.question), []).append((model, result))
    return [_comparison(group) for group in groups.values() if len(group) > 1]


def _comparison(group: Sequence[tuple[Scored, Stored]]) -> Comparison:
    points = tuple(
        Point(model.name, model.report.totals.spikes_per_input or 0.0, result.value, result.stderr)
        for model, result in group
    )
    first = group[0][1]
    baselines = [
        each.value
        for model, _ in group
        for results in (model.found.baseline.values() if model.found is not None else ())
        for each in results
        if each.question == first.question
    ]
    return Comparison(
        base_of_report(group[0][0].report)[1],
        first,
        points,
        baselines[0] if len(set(baselines)) == 1 else None,
        len({_text(model.report.about) for model, _ in group}) > 1,
        len({(result.how.get("dtype"), result.how.get("device")) for _, result in group}) == 1,
    )


def _text(about: Mapping[str, object]) -> str:
    text = about.get("text")
    return f"{text.get('sha256')}, {text.get('tokens')}" if isinstance(text, dict) else ""


def missing_results(models: Sequence[Scored]) -> list[Note]:
    """What is not there to be compared, and the command that makes it."""
    notes = []
    for model in models:
        tasks = {result.name for result in model.results}
        if model.found is None:
            words = f"{model.name}: only a recording is at hand; results lie beside its checkpoint"
            notes.append(Note(words, "spikeconv report CHECKPOINT"))
            continue
        if model.found.others:
            files = ", ".join(file.name for file in model.found.others[:3])
            more = ", …" if len(model.found.others) > 3 else ""
            notes.append(Note(f"{model.name}: left out, as not of these very settings and weights: {files}{more}"))
        if model.report.family in FAMILIES and FAMILIES[model.report.family].encodes:
            continue  # neither is for encoders
        if "perplexity" not in tasks:
            notes.append(Note(f"{model.name}: no perplexity", f"spikeconv perplexity {model.path} --baseline"))
        if not tasks - {"perplexity"}:
            command = f"spikeconv eval {model.path} --tasks piqa,arc --baseline"
            notes.append(Note(f"{model.name}: no tasks", command))
    return notes
