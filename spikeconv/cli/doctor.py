"""`spikeconv doctor`."""

from spikeconv.cli.console import out, print_json
from spikeconv.cli.options import AsJson, Quiet

__all__ = ["doctor"]


def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Say what is installed, which device and back end run, and why.

    Example: [cyan]spikeconv doctor --json[/]
    """
    from spikeconv.evaluate.environment import examine

    report = examine()
    if as_json:
        print_json(report)
        return
    for section, values in report.items():
        out.print("[title]{section}[/]", section=section)
        for key, value in values.items():
            out.print("  {key:<14} {value}", key=key, value=value)
