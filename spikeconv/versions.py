"""Which versions of what are installed."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from spikeconv import __version__

__all__ = ["versions"]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version, ours, and those of some packages by name; "not installed" for one that is not."""
    found = {name: _version(name) for name in packages}
    return {"python": platform.python_version(), "spikeconv": __version__, **found}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
