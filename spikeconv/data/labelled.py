"""Texts with labels, to train and test classifiers on: parts of GLUE that need no hub, or a file of JSON lines.

Of GLUE's tasks only the validation splits are public with labels. Each is split here once and for all, label by label,
into half to train on, a tenth to choose settings with and the rest to test on; `splits.json` holds the row numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spikeconv.data.offline import glue_rows
from spikeconv.data.tokens import rows_of
from spikeconv.errors import SpikeconvError
from spikeconv.suggest import did_you_mean
from spikeconv.untrusted import read_bounded

if TYPE_CHECKING:
    from spikeconv.loading import LoadedModel

__all__ = ["LABELLED_TASKS", "Labelled", "Split", "collate", "is_labelled", "labelled"]

Split = Literal["train", "development", "test"]
SPLITS: tuple[Split, ...] = ("train", "development", "test")

LABELLED_TASKS = {"sst2": ("sentence",), "mrpc": ("sentence1", "sentence2"), "rte": ("sentence1", "sentence2")}
"""The columns of text of GLUE's tasks."""

MOST_BYTES = 1 << 30
LONGEST = 128
"""Tokens of a text, as in SpikeLM."""


@dataclass(frozen=True)
class Labelled:
    """One text, or two that are read together, with its label, from 0."""

    texts: tuple[str, ...]
    label: int


def labelled(task: str, split: Split) -> list[Labelled]:
    """The examples of a split of a task, or those of a `.jsonl` file, which is one split.

    Raises:
        SpikeconvError: there is no such task or file, or a line of it lacks a text or a label.
    """
    if task.endswith(".jsonl"):
        return _of_file(Path(task))
    if task not in LABELLED_TASKS:
        known = ", ".join(LABELLED_TASKS)
        raise SpikeconvError(
            f"There are no labels for {task!r}.{did_you_mean(task, LABELLED_TASKS)} Known: {known}; "
            "or give a .jsonl file."
        )
    rows, columns = glue_rows(task), LABELLED_TASKS[task]
    chosen = [rows[index] for index in _splits()[task][split]]
    return [Labelled(tuple(row[column] for column in columns), row["label"]) for row in chosen]


def is_labelled(task: str) -> bool:
    """Whether a name may be one of texts with labels."""
    return task in LABELLED_TASKS or task.endswith(".jsonl")


def collate(loaded: "LoadedModel", examples: Sequence[Labelled]) -> dict[str, Any]:
    """What a classifier is called with for some examples: ids, masks, labels; padded to the longest.

    Raises:
        SpikeconvError: its tokenizer does not belong to it.
    """
    import torch  # the command line knows the tasks without it

    columns = zip(*(example.texts for example in examples), strict=True)
    rows = rows_of(loaded.model, loaded.tokenizer, *columns, longest=LONGEST)
    return {**rows, "labels": torch.tensor([example.label for example in examples])}


@cache
def _splits() -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = json.loads((files("spikeconv.data") / "splits.json").read_text("utf-8"))
    return found


def _of_file(path: Path) -> list[Labelled]:
    """Lines `{"text": …, "pair": …, "label": 0}`; `pair` may be left out of all."""
    try:
        lines = read_bounded(path, MOST_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SpikeconvError(f"{path} is not UTF-8 text: byte {error.start} cannot be read.") from None
    except OSError as error:
        raise SpikeconvError(f"Could not read {path}: {error.strerror}.") from None
    found = [_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise SpikeconvError(f"{path} holds no examples.")
    if len({len(example.texts) for example in found}) > 1:
        raise SpikeconvError(f'{path}: some lines have a "pair", some none.')
    return found


def _parsed(path: Path, number: int, line: str) -> Labelled:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise SpikeconvError(f"{path}, line {number}: no object of JSON.")
    texts = tuple(row[name] for name in ("text", "pair") if name in row)
    if not texts or "text" not in row or not all(isinstance(text, str) for text in texts):
        raise SpikeconvError(f'{path}, line {number}: "text" (and "pair", if there is one) must be a text.')
    label = row.get("label")
    if type(label) is not int or not 0 <= label < 1 << 16:
        raise SpikeconvError(f'{path}, line {number}: "label" must be a whole number from 0, not {label!r:.40}.')
    return Labelled(texts, label)
