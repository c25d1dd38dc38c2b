"""`spikeconv check`."""

from typing import TYPE_CHECKING, Annotated

import typer

from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.measured import converted, installed
from spikeconv.cli.options import AsJson, Checkpoint, MadeFrom, Quiet, TrustRemoteCode
from spikeconv.cli.reading import chosen_checkpoint

if TYPE_CHECKING:
    from spikeconv.verification.check import CheckResult

__all__ = ["check"]


def check(
    checkpoint: Checkpoint = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged weight files again, from the source.")] = False,
    made_from: MadeFrom = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare every byte of a checkpoint's weights, and its settings, with its record; exit code 1 if anything differs.

    Nothing is loaded or run: see `verify` for what a checkpoint computes.

    Example: [cyan]spikeconv check llama2-7b-4-1.58 --repair[/]
    """
    path = chosen_checkpoint(checkpoint, quiet)

    from spikeconv.checkpoint.folder import source_arch, source_path
    from spikeconv.errors import SpikeconvError
    from spikeconv.sources.resolve import open_source, resolve_source
    from spikeconv.verification.check import check_files
    from spikeconv.verification.repair import repair as make_again

    result = check_files(path, tracker(quiet))
    if repair and not result.clean:
        source = source_path(path, None if made_from is None else resolve_source(made_from))
        if source is None:
            raise SpikeconvError(f"{path} was made of a model in memory; name what to repair it from with --source.")
        if not quiet:
            err.print("[note]repairing from {source}[/]", source=source)
        opened = open_source(source, trust_remote_code=trust_remote_code, arch=source_arch(path))
        repaired = make_again(path, opened, result)
        result = check_files(path, tracker(quiet))
        result.repaired = repaired
    if as_json:
        print_json({**result.to_dict(), "measured": {**converted(path), "versions": installed()}})
    else:
        _show(result)
    if not result.clean:
        raise typer.Exit(1)


def _show(result: "CheckResult") -> None:
    for name in result.repaired:
        out.print("[good]repaired[/]  {name}", name=name)
    for damage in result.damages:
        where = damage.file if damage.tensor is None else f"{damage.file}: {damage.tensor}"
        out.print("[bad]DAMAGED[/]   {where} {what}", where=where, what=damage.what)
    if result.clean:
        out.print(
            "[good]ok[/]        {result.tensors} tensors in {result.files} files, {megabytes:.1f} MB, and the settings "
            "are as written",
            result=result,
            megabytes=result.bytes / 1e6,
        )
