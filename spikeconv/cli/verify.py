"""`spikeconv verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeconv.cli.console import out, print_json, tracker
from spikeconv.cli.measured import measured, text_of
from spikeconv.cli.options import AsJson, Checkpoint, Device, MadeFrom, Quiet, TrustRemoteCode
from spikeconv.cli.reading import chosen_checkpoint

if TYPE_CHECKING:
    from spikeconv.verification.result import VerifyResult

__all__ = ["verify"]


def verify(
    checkpoint: Checkpoint = None,
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to run.", show_default="a bundled public-domain sample")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to run.")] = 32,
    made_from: MadeFrom = None,
    no_source: Annotated[bool, typer.Option("--no-source", help="Compare nothing with the source.")] = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare all executions bit for bit on real activations; exit code 1 if anything differs.

    Also checks that every converted module is called, that every tensor is the source's (rotated and rounded, where
    it was converted), that the rotation alone reproduces the source's logits, and that the files are those that were
    written. The source is read by transformers where it can.

    Example: [cyan]spikeconv verify[/]
    """
    path = chosen_checkpoint(checkpoint, quiet)

    from spikeconv.data.texts import text_or_sample
    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.sources.resolve import resolve_source
    from spikeconv.verification.run import verify as run

    content, label = text_or_sample(text)
    loaded = load_checkpoint(path, device=device, trust_remote_code=trust_remote_code)
    source: bool | Path = not no_source if made_from is None else resolve_source(made_from)
    result = run(loaded, content, tokens=tokens, source=source, track=tracker(quiet))
    if as_json:
        what: dict[str, Any] = {"text": text_of(content, label), "tokens": result.tokens, "source": made_from}
        print_json({**result.to_dict(), **measured(path, device=device, **what)})
    else:
        show_result(result)
    if not result.clean:
        raise typer.Exit(1)


def show_result(result: "VerifyResult") -> None:
    """One line per check."""
    from spikeconv.verification.result import ATTENTION_TOLERANCE, ENGINE_TOLERANCE, ROTATION_TOLERANCE

    def line(good: bool, text: str) -> None:
        out.print("[good]ok[/]        {text}" if good else "[bad]DIFFERENT[/] {text}", text=text)

    line(
        not result.different_accumulators,
        f"{result.accumulators} accumulators of {result.linears} linears on {result.tokens} tokens: "
        "dense = events = unfold" + _names(result.different_accumulators),
    )
    if result.code_accumulators:
        line(
            not result.different_codes,
            f"{result.code_accumulators} accumulators of some linears sent through every temporal code: those of dense"
            + _names(result.different_codes),
        )
    line(not result.different_logits, "logits of all executions" + _names(result.different_logits))
    if result.attention_error is not None:
        line(
            not result.different_rows,
            f"{result.rows} keys and values: the reference's bytes" + _names(result.different_rows),
        )
        line(
            result.attention_error <= ATTENTION_TOLERANCE,
            f"attention over counts: dense = unfold, one query = all at once, to {result.attention_error:.1e}",
        )
    if result.engine_error is not None:
        line(
            not result.different_in_engine and result.engine_error <= ENGINE_TOLERANCE,
            f"{result.engine_outputs} numbers of the engine: the modules', to the bit; what it adds up in floats to "
            f"{result.engine_error:.1e}" + _names(result.different_in_engine),
        )
    if result.attention_error is not None or result.float_caches:
        line(
            not result.float_caches, "the cache holds the spike counts that are asked for" + _names(result.float_caches)
        )
    line(not result.uncalled, "every converted linear was called" + _names(result.uncalled))
    line(not result.changed_files, "files are as written" + _names(result.changed_files))
    if result.source_reader is not None:
        line(
            not result.different_tensors,
            f"{result.float_tensors} float tensors: the source's, read by {result.source_reader}"
            + _names(result.different_tensors),
        )
        line(not result.different_weights, _weights(result) + _names(result.different_weights))
    if result.second_weights:
        line(False, "the source's folder holds other weights too, behind an index" + _names(result.second_weights))
    if result.rotation_error is not None:
        line(
            result.rotation_error <= ROTATION_TOLERANCE,
            f"rotated but not rounded, {result.rotation_of} are reproduced to {result.rotation_error:.1e}",
        )
    for note in result.notes:
        out.print("[note]not checked: {note}[/]", note=note)


def _weights(result: "VerifyResult") -> str:
    """What was found of the weights of converted linears."""
    parts = []
    if result.rounding_error is not None:
        parts.append(f"weights: the source's, rotated and rounded, to {result.rounding_error:.3f} of a step")
    if result.calibrated_error is not None:
        parts.append(
            f"{result.calibrated} calibrated weights (not the nearest, by design): as far from the source's as"
            f" recorded, ‖Ŵ - W‖ up to {result.calibrated_error:.3f} ‖W‖"
        )
    return "; ".join(parts)


def _names(names: list[str]) -> str:
    return f": {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else ""
