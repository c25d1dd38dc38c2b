"""Some models read `.weight` of a linear themselves instead of calling it; converted, they would give wrong numbers."""

from typing import Any

import torch
from torch import nn

from spikeconv.errors import SpikeconvError
from spikeconv.nn.linear import spike_linears

__all__ = ["finish_first_forward", "guard_first_forward"]


def guard_first_forward(model: nn.Module) -> None:
    """Let the first forward of a model raise a `SpikeconvError` if it passed a converted linear by."""
    guard = _Guard()
    for linear in spike_linears(model).values():
        linear.register_forward_hook(guard.called)
    model.register_forward_hook(guard.finished)


def finish_first_forward(model: Any) -> None:
    """Run the first forward of a model, on one token, if it is still to come: its modules must run for it."""
    from spikeconv.loading import device_of  # which imports transformers, and that may be half-way through when we are

    if any(isinstance(getattr(hook, "__self__", None), _Guard) for hook in model._forward_hooks.values()):
        with torch.inference_mode():
            model(torch.zeros(1, 1, dtype=torch.int64, device=device_of(model)))


class _Guard:
    """The linears that were called, until the first forward is over; copied and pickled with its model."""

    def __init__(self) -> None:
        self.seen: set[nn.Module] = set()

    def called(self, linear: nn.Module, _arguments: Any, _output: Any) -> None:
        """Hook of every converted linear."""
        if not torch.compiler.is_compiling():
            self.seen.add(linear)

    def finished(self, model: nn.Module, _arguments: Any, _output: Any) -> None:
        """Hook of the model."""
        if torch.compiler.is_compiling():
            return
        uncalled = [name for name, linear in spike_linears(model).items() if linear not in self.seen]
        for module in model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__self__", None) is self:
                    del module._forward_hooks[key]
        if uncalled:
            raise SpikeconvError(
                f"The model never called {len(uncalled)} of its converted linears ({min(uncalled)}, …): its code reads "
                "their weights by itself, and its output is worthless."
            )
