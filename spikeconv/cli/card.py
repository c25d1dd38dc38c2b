"""`spikeconv card`: the model card, with what was measured since."""

from spikeconv.cli.console import out, print_json
from spikeconv.cli.options import AsJson, Checkpoint, Quiet
from spikeconv.cli.reading import chosen_checkpoint

__all__ = ["card"]


def card(checkpoint: Checkpoint = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Write README.md again with what `record`, `eval` and `perplexity` have left since; one that was edited stays.

    Example: [cyan]spikeconv card llama2-7b-4-1.58[/]
    """
    from spikeconv.checkpoint.card import CARD
    from spikeconv.plain import write_text
    from spikeconv.publish.card import renewed_card

    path = chosen_checkpoint(checkpoint, quiet)
    found = renewed_card(path)
    if not found.is_edited:
        write_text(path / CARD, found.text)
    if as_json:
        print_json({"checkpoint": str(path), "output": str(path / CARD), "written": not found.is_edited})
    elif found.is_edited:
        out.print("{file} was edited and stays as it is; move it away for a new one.", file=path / CARD)
    else:
        out.print("[good]Written[/] {file}", file=path / CARD)
