"""A network of which one layer at a time is in memory: its hidden states on a text, and the layer that comes next.

The model is built without memory for its parameters, but with its real buffers (the rotary embedding's). A forward pass
over the embedding alone shows what transformers calls every layer with: masks, positions, whatever the version has.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.families import GatedDecoder

__all__ = ["Load", "Stream", "release"]

Load = Callable[[str], Tensor]
"""A float tensor by its name in the model's state dict."""


class _Seen(Exception):
    """Ends a forward pass that has shown what it was run for."""


class Stream:
    """One network and its hidden states [windows, tokens, hidden] float32 in front of the half layer that comes next.

    Args:
        model: built by `build_unloaded`; what takes the place of its linears may have no memory either.
        layers: name of the list of its layers.
        parts: what the halves of a layer are called.
        load: gives its parameters.
        windows: token ids [windows, tokens].
        batch: windows that are run at once.
    """

    def __init__(self, model: Any, layers: str, parts: GatedDecoder, load: Load, windows: Tensor, batch: int) -> None:
        self.model, self.layers = model, layers
        self._parts, self._load, self._batch = parts, load, batch
        self._calls: dict[tuple[int, int], dict[str, Any]] = {}
        self.hidden = self._embed(windows)

    def batches(self) -> list[slice]:
        """The windows of each batch."""
        return [slice(b, b + self._batch) for b in range(0, len(self.hidden), self._batch)]

    def layer(self, index: int) -> nn.Module:
        """A layer."""
        return self.model.get_submodule(f"{self.layers}.{index}")  # type: ignore[no-any-return]

    def bring(self, index: int, leave: Iterable[str] = ()) -> None:
        """Load the parameters of a layer.

        Args:
            index: which.
            leave: names of parameters that come from elsewhere.
        """
        prefix, left = f"{self.layers}.{index}", set(leave)
        for path, module in self.layer(index).named_modules(prefix=prefix):
            for name in list(module._parameters):
                if module._parameters[name] is not None and f"{path}.{name}" not in left:
                    tensor = self._load(f"{path}.{name}").float()
                    module._parameters[name] = nn.Parameter(tensor, requires_grad=False)

    def run(self, index: int, half: int, windows: slice) -> Tensor:
        """What half a layer (0: attention, 1: feed-forward) adds to the hidden states of some windows."""
        layer, x = self.layer(index), self.hidden[windows]
        if half == 0:
            normed = layer.get_submodule(self._parts.attention_norm)(x)
            called = self._calls[index, len(x)]
            output: Tensor = layer.get_submodule(self._parts.attention)(hidden_states=normed, **called)[0]
            return output
        normed = layer.get_submodule(self._parts.feed_forward_norm)(x)
        return layer.get_submodule(self._parts.feed_forward)(normed)  # type: ignore[no-any-return]

    def seen(self, index: int, half: int, windows: slice, module: nn.Module) -> Tensor:
        """The input of a linear in half a layer; nothing behind it is computed."""
        found: list[Tensor] = []

        def look(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found.append(arguments[0])
            raise _Seen

        hook = module.register_forward_pre_hook(look)
        try:
            self.run(index, half, windows)
        except _Seen:
            return found[0]
        finally:
            hook.remove()
        raise AssertionError(f"half {half} of layer {index} does not call the linear that it is said to have")

    def advance(self, index: int, half: int) -> None:
        """Add half a layer to the hidden states of all windows."""
        for windows in self.batches():
            self.hidden[windows] += self.run(index, half, windows)

    @torch.no_grad()
    def _embed(self, windows: Tensor) -> Tensor:
        """The hidden states in front of the first layer; on the way, what every layer is called with."""
        layers = self.model.get_submodule(self.layers)
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        embedding.weight = nn.Parameter(self._load(f"{name}.weight").float(), requires_grad=False)
        parts: list[Tensor] = []

        def record(index: int, size: int) -> Callable[..., Any]:
            def forward(hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
                assert not arguments, "transformers calls its layers with keywords"
                self._calls[index, size] = options
                if index == 0:
                    parts.append(hidden_states)
                if index == len(layers) - 1:
                    raise _Seen
                return hidden_states

            return forward

        for ids in windows.split(self._batch):
            for index, layer in enumerate(layers):
                layer.forward = record(index, len(ids))
            try:
                self.model(ids, use_cache=False)
            except _Seen:
                pass
            finally:
                for layer in layers:
                    del layer.forward
        release(embedding)
        return torch.cat(parts)


def release(module: nn.Module) -> None:
    """Give the memory of a module's parameters and buffers back."""
    module.to("meta")
