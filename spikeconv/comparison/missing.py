"""Which measurements a comparison lacks: so that all columns answer the same questions, on the same text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spikeconv.comparison.columns import Column, text_of
from spikeconv.evaluate.stored import PERPLEXITY
from spikeconv.hashing import text_digest

__all__ = ["Question", "Tasks", "Text", "missing_questions", "missing_spikes", "missing_tasks"]


@dataclass(frozen=True)
class Text:
    """A text to read: its name and `content`; of it `tokens`."""

    label: str
    content: str
    tokens: int

    @property
    def digest(self) -> str:
        """SHA-256 of its UTF-8."""
        return text_digest(self.content)


@dataclass(frozen=True)
class Question:
    """A perplexity that is asked for; `window` None: as long as the model can, up to 2,048."""

    text: Text
    window: int | None
    max_tokens: int | None

    def is_answered_by(self, window: int, max_tokens: int | None) -> bool:
        """Whether a perplexity of the same text, of that window and as many tokens, is what is asked for."""
        return self.window in (None, window) and self.max_tokens == max_tokens


@dataclass(frozen=True)
class Tasks:
    """Tasks that are asked for."""

    names: tuple[str, ...]
    limit: int | None
    num_fewshot: int | None
    data: str


def missing_spikes(columns: Iterable[Column], text: Text, named: bool) -> list[Column]:
    """The checkpoints that should read a text.

    None, where all columns have recordings of one text, and none was named; else those without one of this text.

    Args:
        columns: all.
        text: to read.
        named: whether the user named it, or how many tokens of it: then recordings of others say nothing.
    """
    spiking = [column for column in columns if column.config is not None]
    held = [text_of(column.recording) for column in spiking if column.recording is not None]
    if not named and len(held) == len(spiking) and len(set(held)) <= 1:
        return []
    wanted = text.digest, None, text.tokens
    return [
        column
        for column in spiking
        if column.subject.kind == "checkpoint" and (column.recording is None or text_of(column.recording) != wanted)
    ]


def missing_questions(column: Column, columns: Iterable[Column], question: Question, named: bool) -> list[Question]:
    """The perplexities that a column lacks: those that others have of the same text, or the one that is asked for.

    Args:
        column: whose.
        columns: all.
        question: what is asked for.
        named: whether the user named its window or tokens.
    """
    text = question.text
    asked = [each.asked for other in columns for each in other.results.values() if each.name == PERPLEXITY]
    known = {(each["window"], each["max_tokens"]) for each in asked if each["text"] == text.digest}
    if named:
        known = {each for each in known if question.is_answered_by(*each)}
    wanted = [Question(text, window, most) for window, most in sorted(known, key=str)] or [question]
    own = [each.asked for each in column.results.values() if each.name == PERPLEXITY]
    held = [(each["window"], each["max_tokens"]) for each in own if each["text"] == text.digest]
    return [each for each in wanted if not any(each.is_answered_by(*other) for other in held)]


def missing_tasks(column: Column, columns: Iterable[Column], tasks: Tasks | None) -> list[Tasks]:
    """The tasks that a column lacks: those that are asked for, or else what the others have answered."""
    if tasks is not None:
        wanted = {(name, tasks.limit, tasks.num_fewshot, tasks.data) for name in tasks.names}
        order: Sequence[str] = tasks.names
    else:
        answered = [each for other in columns for each in other.results.values() if each.name != PERPLEXITY]
        wanted = {(each.name, *_how(each.asked)) for each in answered}
        order = list(dict.fromkeys(each.name for each in answered))
    held = {(each.name, *_how(each.asked)) for each in column.results.values() if each.name != PERPLEXITY}
    found: dict[tuple[int | None, int | None, str], list[str]] = {}
    for name in order:
        for each in sorted(wanted - held, key=str):
            if each[0] == name:
                found.setdefault(each[1:], []).append(name)
    return [Tasks(tuple(names), *how) for how, names in found.items()]


def _how(asked: dict[str, object]) -> tuple[int | None, int | None, str]:
    limit, fewshot = asked["limit"], asked["num_fewshot"]
    return (
        limit if isinstance(limit, int) else None,
        fewshot if isinstance(fewshot, int) else None,
        str(asked["data"]),
    )
