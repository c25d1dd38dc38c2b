"""What of a model runs another way than it should: said once, in a line of ours."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.cli.console import err
from spikeconv.errors import SpikeconvWarning

if TYPE_CHECKING:
    from spikeconv.loading import LoadedModel

__all__ = ["load_telling", "show_fallbacks", "show_warning", "silence_fallbacks"]


def show_warning(message: Warning | str, category: type[Warning], *_place: Any, **_options: Any) -> None:
    """`warnings.showwarning` of the command line: ours without the place in the code, which says nothing to a user."""
    text = str(message) if issubclass(category, SpikeconvWarning) else f"{category.__name__}: {message}"
    err.print("[bad]warning:[/] {text}", text=text)


def silence_fallbacks() -> None:
    """Let loading not warn of what `show_fallbacks` will list, until the command ends."""
    warnings.simplefilter("ignore", SpikeconvWarning)


def load_telling(path: Path, quiet: bool, **how: Any) -> "tuple[LoadedModel, list[str]]":
    """A checkpoint, and the sentences of what falls back of it, which are noted on stderr unless `quiet`.

    Args:
        path: its folder.
        quiet: whether loading warns instead.
        how: as `load_checkpoint` takes it.
    """
    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.integrations.fallbacks import fallbacks

    if not quiet:
        silence_fallbacks()
    loaded = load_checkpoint(path, **how)
    return loaded, fallbacks(loaded.model) if quiet else show_fallbacks(loaded.model)


def show_fallbacks(model: Any) -> list[str]:
    """Note on stderr what of a loaded model falls back, chosen or not; returns the sentences."""
    from spikeconv.integrations.fallbacks import fallbacks

    found = fallbacks(model)
    for text in found:
        err.print("[note]note: {text}[/]", text=text)
    return found
