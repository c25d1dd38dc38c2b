"""Zero- and few-shot accuracy with lm-eval's task definitions, on data from the hub or the package index."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from spikeconv.data.hub import hub_disabled, hub_reachable
from spikeconv.data.offline import OFFLINE_TASKS
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.names import check_data, resolve_tasks
from spikeconv.evaluate.results import EvaluationResult, TaskResult
from spikeconv.families import family_of, refuse_encoder
from spikeconv.progress import Track, silent
from spikeconv.ranks import ALONE, Ranks
from spikeconv.serving.harness import vllm_harness

if TYPE_CHECKING:
    from spikeconv.evaluate.models import LoadedModel

__all__ = [
    "Source",
    "choose_data",
    "evaluate_by_vllm",
    "evaluate_tasks",
    "offline_task",
    "parse_settings",
    "resolve_tasks",
]

Source = Literal["hub", "offline"]


def choose_data(data: str, tasks: Sequence[str]) -> Source:
    """Where the rows of `tasks` will come from; `auto` takes the hub if it answers within three seconds.

    Raises:
        SpikeconvError: another word than auto, hub or offline; a task that needs the hub when there is none.
    """
    check_data(data)
    if data == "hub" or (data == "auto" and hub_reachable()):
        return "hub"
    missing = [task for task in tasks if task not in OFFLINE_TASKS]
    if missing:
        why = "the hub cannot be reached and " if data == "auto" else ""
        raise SpikeconvError(f"{why}there is no offline data for {', '.join(missing)}; it exists for: {_offline()}.")
    return "offline"


class Settings(TypedDict):
    """Checked numbers of a run."""

    limit: int | None
    num_fewshot: int | None
    batch_size: int | str


def parse_settings(*, limit: int | None, num_fewshot: int | None, batch_size: int | str) -> Settings:
    """Check what a user typed, before anything slow begins.

    Raises:
        SpikeconvError: a value out of range.
    """
    for option, value, least in (("--limit", limit, 1), ("--num-fewshot", num_fewshot, 0)):
        if value is not None and value < least:
            raise SpikeconvError(f"{option} must be at least {least}, not {value}.")
    if batch_size != "auto":
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise SpikeconvError(f"--batch-size must be auto or a number from 1 up, not {batch_size!r}.")
        batch_size = int(batch_size)
    return {"limit": limit, "num_fewshot": num_fewshot, "batch_size": batch_size}


def evaluate_tasks(
    loaded: "LoadedModel",
    tasks: Sequence[str],
    *,
    data: str = "auto",
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int | str = "auto",
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> EvaluationResult:
    """Score a model on lm-eval tasks.

    Args:
        loaded: the model and its tokenizer.
        tasks: lm-eval names, as `resolve_tasks` gives them.
        data: `hub`, `offline` or `auto`.
        limit: only the first documents of each task.
        num_fewshot: examples before each question; None is each task's own number.
        batch_size: sequences per forward pass; `auto` goes by tokens and memory.
        track: told of every answer scored.
        ranks: processes that share the requests; each gets the whole result.

    Raises:
        SpikeconvError: a value out of range, or data that cannot be had.
    """
    settings = parse_settings(limit=limit, num_fewshot=num_fewshot, batch_size=batch_size)
    refuse_encoder(family_of(loaded.model), "likelihood of an answer")
    source, built = _built(tasks, data)

    from spikeconv.integrations.lm_eval import HarnessModel, run_harness

    harness = HarnessModel(loaded.model, loaded.tokenizer, settings["batch_size"], track, ranks)
    start = time.perf_counter()
    raw = run_harness(harness, built, limit=limit, num_fewshot=num_fewshot)
    seconds = time.perf_counter() - start
    computed = sum(ranks.gather(harness.tokens))
    return EvaluationResult(_all_scores(loaded.name, built, raw), source, seconds, computed, raw, **loaded.compute)


def evaluate_by_vllm(
    path: Path,
    tasks: Sequence[str],
    *,
    data: str = "auto",
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int | str = "auto",
    dtype: str = "auto",
) -> EvaluationResult:
    """As `evaluate_tasks`, but vLLM runs the checkpoint in the folder `path`, by lm-eval's own class for it.

    Raises:
        SpikeconvError: as there; or vLLM is not there or another, or cannot run that checkpoint.
    """
    settings = parse_settings(limit=limit, num_fewshot=num_fewshot, batch_size=batch_size)
    harness = vllm_harness(path, dtype, settings["batch_size"])
    source, built = _built(tasks, data)

    from spikeconv.integrations.lm_eval import results_of

    start = time.perf_counter()
    raw = results_of(harness, built, limit=limit, num_fewshot=num_fewshot)
    seconds = time.perf_counter() - start
    scores = _all_scores(path.name, built, raw)
    return EvaluationResult(scores, source, seconds, harness.tokens, raw, **harness.compute)


def _built(tasks: Sequence[str], data: str) -> tuple[Source, list[Any]]:
    """Where the rows come from, and the task objects."""
    source = choose_data(data, tasks)
    return source, [offline_task(task) for task in tasks] if source == "offline" else _from_hub(tasks)


def _all_scores(model: str, built: Sequence[Any], raw: dict[str, Any]) -> tuple[TaskResult, ...]:
    raw["config"]["model"] = model
    names = [getattr(item, "task_name", None) or item.name for item in built]
    return tuple(score for name in names for score in _scores(name, raw))


def offline_task(name: str) -> Any:
    """The lm-eval task object of a task in `OFFLINE_TASKS`, on rows that need no hub."""
    from spikeconv.integrations.lm_eval import yaml_task

    task = OFFLINE_TASKS[name]
    return yaml_task(task.yaml, **task.fields())


def _from_hub(tasks: Sequence[str]) -> list[Any]:
    from spikeconv.integrations.lm_eval import hub_tasks, yaml_task

    with hub_disabled(not hub_reachable()):  # what was fetched before still serves, and nothing waits for a retry
        try:
            if all(task in OFFLINE_TASKS for task in tasks):
                return [yaml_task(OFFLINE_TASKS[task].yaml) for task in tasks]
            return hub_tasks(tasks)
        except Exception as error:  # lm-eval runs the task's own code, and datasets raises whatever its clients do
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SpikeconvError(
                f"Could not load {', '.join(tasks)} from the hub ({reason}); offline there are: {_offline()}."
            ) from error


def _offline() -> str:
    return ", ".join(sorted(OFFLINE_TASKS))


def _scores(name: str, raw: dict[str, Any]) -> Iterator[TaskResult]:
    """One score for a task or for a group that has one of its own, else one for each member of the group."""
    found = {key: value for key, value in raw["results"].get(name, {}).items() if "," in key}
    metrics = {key: value for key, value in found.items() if "_stderr," not in key}
    members = raw.get("group_subtasks", {}).get(name, [])
    if not metrics:
        for member in members:
            yield from _scores(member, raw)
        return
    config = raw["configs"].get(name, {})
    chosen = next(
        (m for metric in ("acc_norm", "acc") for m in metrics if m.startswith(f"{metric},")),
        next(iter(metrics)),
    )
    metric, filter_name = chosen.split(",", 1)
    stderr = found.get(f"{metric}_stderr,{filter_name}")
    yield TaskResult(
        name=name,
        metric=metric,
        value=float(metrics[chosen]),
        stderr=float(stderr) if isinstance(stderr, int | float) else None,
        n=sum(raw["n-samples"][task]["effective"] for task in _leaves(name, raw)),
        split=config.get("test_split") or config.get("validation_split") or "several",
        metrics={key.removesuffix(",none"): float(value) for key, value in metrics.items()},
    )


def _leaves(name: str, raw: dict[str, Any]) -> Iterator[str]:
    members = raw.get("group_subtasks", {}).get(name, [])
    if not members:
        yield name
    for member in members:
        yield from _leaves(member, raw)
