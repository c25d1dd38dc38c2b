"""What vLLM calls in every process of its own, by the entry point `vllm.general_plugins`."""

from contextlib import suppress

from spikeconv.errors import SpikeconvError
from spikeconv.serving.versions import check_vllm

__all__ = ["register"]


def register() -> None:
    """Teach vLLM the checkpoint format.

    A vLLM that the plug-in is not made for runs all other models as ever, and is told when it is asked for one of ours.
    """
    import spikeconv.serving.refusal  # vLLM takes seconds, which the command line does not have

    with suppress(SpikeconvError):
        check_vllm()
        import spikeconv.serving.quantization  # noqa: F401
