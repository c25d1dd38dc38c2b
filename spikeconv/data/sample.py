"""A short public-domain text for a first look at firing rates."""

from importlib.resources import files

__all__ = ["sample_text"]


def sample_text() -> str:
    """The opening of Alice's Adventures in Wonderland (Lewis Carroll, 1865) and the Gettysburg Address (1863)."""
    return (files("spikeconv.data") / "sample.txt").read_text(encoding="utf-8")
