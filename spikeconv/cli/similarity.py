"""`spikeconv similarity`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.measured import measured, text_of
from spikeconv.cli.options import AsJson, Checkpoint, Device, Dtype, Execution, MadeFrom, Quiet, TrustRemoteCode
from spikeconv.cli.reading import chosen_checkpoint
from spikeconv.progress import named

__all__ = ["similarity"]


def similarity(
    checkpoint: Checkpoint = None,
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text, a sentence a line.", show_default="MRPC's validation sentences")
    ] = None,
    sentences: Annotated[int, typer.Option(min=2, help="Sentences to read at most.")] = 256,
    made_from: MadeFrom = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    execution: Execution = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a converted encoder's sentence vectors with those of the float model it came from.

    Example: [cyan]spikeconv similarity --sentences 512[/]
    """
    path = chosen_checkpoint(checkpoint, quiet=True)

    from spikeconv.data.offline import mrpc_sentences
    from spikeconv.data.texts import read_text
    from spikeconv.evaluate.compare import compare
    from spikeconv.evaluate.similarity import sentence_vectors
    from spikeconv.evaluate.similarity import similarity as compared

    content, label = (None, "MRPC validation sentences") if text is None else read_text(text)
    lines = mrpc_sentences() if content is None else [line for line in map(str.strip, content.splitlines()) if line]
    if not quiet:
        err.print("[note]checkpoint {path}, text: {label}[/]", path=path, label=label)
    found = compare(
        lambda loaded: sentence_vectors(loaded, lines[:sentences], named(tracker(quiet), loaded.name)),
        path,
        source=made_from,
        baseline=True,
        device=device,
        dtype=dtype,
        execution=execution,
        trust_remote_code=trust_remote_code,
    )
    assert found.baseline is not None
    result = compared(found.spiking, found.baseline)
    if as_json:
        what: dict[str, Any] = {
            "text": text_of("\n".join(lines), label),
            "sentences": result.sentences,
            "source": made_from,
        }
        how = measured(path, device=device, dtype=dtype, execution=execution, **what)
        print_json({**asdict(result), **how})
        return
    out.print(
        "cosine of the {result.sentences} sentence vectors with the float model's: mean [number]{result.mean:.4f}[/], "
        "least {result.least:.4f}\n"
        "cosines of all pairs of sentences: correlation [number]{result.pairs:.4f}[/] with the float model's",
        result=result,
    )
