"""`spikeconv perplexity`: perplexity and bits per byte on a text."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from spikeconv.cli.console import err, out, print_json, table, tracker
from spikeconv.cli.failure import convenience, show_lost_baseline
from spikeconv.cli.measured import measured, running, text_of
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
from spikeconv.data.texts import read_text
from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.evaluate import perplexity as measurement
from spikeconv.evaluate.compare import compare
from spikeconv.placing import Placing
from spikeconv.progress import named
from spikeconv.ranks import current

__all__ = ["perplexity"]

Text = Annotated[Path | None, typer.Option(help="A UTF-8 text file.", show_default=False)]
Dataset = Annotated[
    str | None,
    typer.Option(help="wikitext2, c4 or a hub id; BoolQ's passages if omitted.", show_default=False),
]
Window = Annotated[int, typer.Option(min=2, help="Tokens per window; windows do not overlap.")]
MaxTokens = Annotated[int | None, typer.Option(help="Read only so many tokens.", show_default=False)]
Baseline = Annotated[bool, typer.Option("--baseline", help="Also run the float model it came from.")]


def perplexity(
    checkpoint: Checkpoint = None,
    text: Text = None,
    dataset: Dataset = None,
    window: Window = 2048,
    max_tokens: MaxTokens = None,
    baseline: Baseline = False,
    made_from: MadeFrom = None,
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
) -> None:
    """Measure perplexity and bits per byte on a text.

    Several processes share its windows: `accelerate launch -m spikeconv perplexity …`.

    Example: spikeconv perplexity --dataset wikitext2 --window 2048 --baseline
    """
    from spikeconv.checkpoint.folder import resolve_checkpoint, saw_text
    from spikeconv.evaluate.stored import save_perplexity, text_question
    from spikeconv.hashing import text_digest

    path = resolve_checkpoint(checkpoint)
    if max_tokens is not None and max_tokens < window:
        raise SpikeconvError(f"--max-tokens {max_tokens} holds no window of {window} tokens; lower --window.")
    content, label = read_text(text, dataset)
    if saw_text(path, text_digest(content)):
        message = f"{path} was calibrated on this text ({label}): what it measures here says little of others."
        warnings.warn(message, SpikeconvWarning, stacklevel=2)
    if not quiet:
        err.print("[note]checkpoint {path}, text: {label}[/]", path=path, label=label)
    ranks = current()
    check_same(path, **{"The text": text_digest(content)})
    placing = place(model_parallel, memory_limits, offload_folder)
    runs = running(ranks.device(device), dtype, execution, head_bits, cache_dtype)
    result = compare(
        lambda loaded: measurement.perplexity(
            loaded, content, window=window, max_tokens=max_tokens, track=named(tracker(quiet), loaded.name), ranks=ranks
        ),
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
    saved = None
    with convenience("the results are not beside the checkpoint"):
        asked = text_question(content, label, window, max_tokens)
        saved = save_perplexity(path, asked, result.spiking, result.baseline, result.source)
    if as_json:
        reference = {} if result.baseline is None else {"baseline": result.baseline.as_dict()}
        where = {"checkpoint": str(path), "text": label, "output": None if saved is None else str(saved)}
        read = {"tokens": result.spiking.tokens, "window": window}
        what: dict[str, Any] = {
            "text": text_of(content, label),
            **read,
            "source": made_from,
            "spread": Placing.told(placing),
        }
        how = measured(path, **runs, **what)
        print_json({**where, **result.spiking.as_dict(), **reference, **how})
        return
    rows = table(path.name, "", "perplexity", "bits/byte", "tokens/s")
    for name, run in (("baseline", result.baseline), ("spiking", result.spiking)):
        if run is not None:
            speed = f"{run.tokens / run.seconds:,.0f}"
            rows.add_row(name, f"{run.perplexity:.4f}", f"{run.bits_per_byte:.4f}", speed)
    out.show(rows)
    out.print(
        "[note]{tokens:,} tokens of {label}, predicted in windows of {window:,}[/]",
        tokens=result.spiking.tokens,
        label=label,
        window=window,
    )
    if saved is not None:
        out.print("[note]saved to {saved}[/]", saved=saved)
