"""Tensors that accelerate keeps elsewhere, on the CPU or on disk, until the forward of their own module.

A linear's encoder reads a norm's weight or bias long after that module's forward: it is brought back by accelerate's
own hook for the time of the call.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from spikeconv.errors import SpikeconvError

__all__ = ["HOOK", "brought_back", "is_away"]

HOOK = "_hf_hook"
"""The attribute under which accelerate keeps a module's hook."""


def is_away(module: nn.Module | None) -> bool:
    """Whether a tensor of a module itself is kept elsewhere."""
    if module is None:
        return False
    tensors = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None and tensor.is_meta for tensor in tensors)


@contextmanager
def brought_back(modules: Iterable[nn.Module | None]) -> Iterator[None]:
    """The tensors of modules, in memory while the context is open.

    Raises:
        SpikeconvError: nothing knows where they are.
    """
    with ExitStack() as stack:
        for module in modules:
            if module is not None and is_away(module):
                stack.enter_context(_in_memory(module))
        yield


@contextmanager
def _in_memory(module: Any) -> Iterator[None]:
    hook = getattr(module, HOOK, None)
    if hook is None:
        raise SpikeconvError(
            f"The weights of a {type(module).__name__} are on the meta device, and no hook of accelerate brings them "
            "back: load the model again."
        )
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)
