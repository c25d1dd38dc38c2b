"""Which tasks a command line asks for; answers without importing lm-eval, so a typo costs no model load."""

import difflib
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from spikeconv.data.offline import OFFLINE_TASKS
from spikeconv.errors import SpikeconvError
from spikeconv.families import names_classifier

__all__ = ["ALIASES", "SUITES", "labels_texts", "resolve_tasks"]

SUITES = {"sdllm": ("piqa", "arc_easy", "arc_challenge", "boolq", "hellaswag", "winogrande")}
"""Named lists of tasks. `sdllm` is the paper's table of zero-shot accuracies."""

ALIASES = {
    "arc": ("arc_easy", "arc_challenge"),
    "obqa": ("openbookqa",),
    "siqa": ("social_iqa",),
}
"""Names people use that are not lm-eval's."""

DECLARED = re.compile(r"""^["']?(?:task|group|tag)["']?:[ ]*["']?([^\s"'\[{!#]+)["']?[ ]*$""", re.M)
LISTED = re.compile(r"""^["']?tag["']?:[ ]*\n((?:[ ]*-[ ]*\S+[ ]*(?:\n|$))+)""", re.M)


def labels_texts(checkpoint: Path) -> bool:
    """Whether a checkpoint is a classifier's."""
    from spikeconv.sources.json_file import read_json  # which imports torch

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
    """Every task, group and tag, read off the YAML files in 1 to 3 s; lm-eval's own index takes 10 s."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise SpikeconvError("lm-eval is not installed; install it with: pip install lm-eval")
    names: set[str] = set()
    for path in (Path(spec.origin).parent / "tasks").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        names.update(DECLARED.findall(text))
        for block in LISTED.findall(text):
            names.update(line.strip(" -\"'") for line in block.splitlines())
    return frozenset(names)
