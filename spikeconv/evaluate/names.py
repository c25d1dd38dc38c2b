"""Which tasks a command line asks for; answers without importing lm-eval, so a typo costs no model load."""

import difflib
import os
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from spikeconv.data.offline import OFFLINE_TASKS
from spikeconv.errors import SpikeconvError
from spikeconv.families import names_classifier
from spikeconv.sources.json_file import read_json

__all__ = ["ALIASES", "SUITES", "check_data", "labels_texts", "resolve_tasks"]

SUITES = {"sdllm": ("piqa", "arc_easy", "arc_challenge", "boolq", "hellaswag", "winogrande")}
"""Named lists of tasks. `sdllm` is the paper's table of zero-shot accuracies."""

ALIASES = {
    "arc": ("arc_easy", "arc_challenge"),
    "obqa": ("openbookqa",),
    "siqa": ("social_iqa",),
}
"""Names people use that are not lm-eval's."""

DECLARED = re.compile(rb"""^["']?(?:task|group|tag)["']?:[ ]*["']?([^\s"'\[{!#]+)["']?[ ]*$""", re.M)
LISTED = re.compile(rb"""^["']?tag["']?:[ ]*\n((?:[ ]*-[ ]*\S+[ ]*(?:\n|$))+)""", re.M)


def check_data(data: str) -> None:
    """Check where the rows of tasks are to come from.

    Raises:
        SpikeconvError: another word than auto, hub or offline.
    """
    if data not in ("auto", "hub", "offline"):
        raise SpikeconvError(f"--data must be auto, hub or offline, not {data!r}.")


def labels_texts(checkpoint: Path) -> bool:
    """Whether a checkpoint is a classifier's."""
    named = read_json(checkpoint / "config.json").get("architectures")
    return isinstance(named, list) and bool(named) and names_classifier(str(named[0]))


def resolve_tasks(names: str | Iterable[str] | None = None, suite: str | None = None) -> tuple[str, ...]:
    """lm-eval names for comma-separated `names` and a `suite`, without repeats; the suite `sdllm` if neither.

    Raises:
        SpikeconvError: a name that neither spikeconv nor lm-eval knows, with the nearest ones.
    """
    given = names.split(",") if isinstance(names, str) else list(names or ())
    asked = [name.strip() for name in given if name.strip()]
    if suite is None and not asked:
        if names is not None:
            raise SpikeconvError("--tasks names no task; give for example piqa,arc_easy.")
        suite = "sdllm"
    if suite is not None:
        if suite not in SUITES:
            raise SpikeconvError(f"There is no suite {suite!r}; known suites: {', '.join(SUITES)}.")
        asked = [*SUITES[suite], *asked]
    resolved = [task for name in asked for task in ALIASES.get(name, (name,))]
    for task in resolved:
        if task not in OFFLINE_TASKS and task not in _lm_eval_names():
            raise SpikeconvError(_unknown(task))
    return tuple(dict.fromkeys(resolved))


def _unknown(task: str) -> str:
    ours = {*OFFLINE_TASKS, *ALIASES}
    near = difflib.get_close_matches(task, ours, n=3) or difflib.get_close_matches(task, _lm_eval_names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"usual ones: {', '.join(sorted(ours))}."
    return f"lm-eval has no task {task!r}; {hint}"


@cache
def _lm_eval_names() -> frozenset[str]:
    """Every task, group and tag, read off 14,000 YAML files in half a second; lm-eval's own index takes 10 s."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise SpikeconvError("lm-eval is not installed; install it with: pip install lm-eval")
    names: set[bytes] = set()
    for folder, _, files in os.walk(Path(spec.origin).parent / "tasks"):
        for file in files:
            if file.endswith(".yaml"):
                text = Path(folder, file).read_bytes()
                names.update(DECLARED.findall(text))
                for block in LISTED.findall(text):
                    names.update(line.strip(b" -\"'") for line in block.splitlines())
    return frozenset(name.decode(errors="replace") for name in names)
