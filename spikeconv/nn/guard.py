"""Some models read `.weight` of a linear themselves instead of calling it; converted, they would give wrong numbers."""

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from spikeconv.errors import SpikeconvError
from spikeconv.nn.linear import spike_linears

__all__ = ["guard_first_forward"]


def guard_first_forward(model: nn.Module) -> None:
    """Let the first forward of a model raise a `SpikeconvError` if it passed a converted linear by."""
    uncalled = set(spike_linears(model))
    hooks: list[RemovableHandle] = []

    def called(name: str) -> Any:
        return lambda _module, _arguments, _output: uncalled.discard(name)

    def finished(_model: nn.Module, _arguments: Any, _output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for hook in hooks:
            hook.remove()
        if uncalled:
            raise SpikeconvError(
                f"The model never called {len(uncalled)} of its converted linears ({min(uncalled)}, …): its code reads "
                "their weights by itself, and its output is worthless."
            )

    for name, linear in spike_linears(model).items():
        hooks.append(linear.register_forward_hook(called(name)))
    hooks.append(model.register_forward_hook(finished))
