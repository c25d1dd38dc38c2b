"""What the loss of a float model says of the outputs of its linears, with one decoder layer in memory.

One pass forward keeps what every layer is called with; then each layer runs once more, the last one first, and hands
the gradient on to the one before it. The labels are drawn from the model's own predictions, so that the mean of
(g·e)² / 2 over tokens is how far the predictions move where a small error e is added to an output, in nats (the Fisher
information: a Kullback-Leibler divergence to second order).
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeconv.calibrate.streamed import BATCH_TOKENS, layers_of, streamed_model
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source

__all__ = ["Seen", "output_gradients"]

HEAD_TOKENS = 512
"""Tokens whose predictions are in memory at once."""
SEED = 0
"""Of the labels."""


class Seen(NamedTuple):
    """A linear on some tokens.

    Attributes:
        x: its input [tokens, in] float32.
        weight: [out, in] float32.
        gradient: of the summed loss by its output, g [tokens, out] float32.
    """

    x: Tensor
    weight: Tensor
    gradient: Tensor


def output_gradients(
    source: Source,
    names: Collection[str],
    windows: Tensor,
    label: str,
    *,
    batch_tokens: int = BATCH_TOKENS,
    track: Track = silent,
) -> Iterator[dict[str, Seen]]:
    """The named linears of one layer after another, from the last to the first, for each batch of windows.

    Args:
        source: a float source.
        names: of linears in its layers.
        windows: token ids [windows, tokens].
        label: what the progress display says.
        batch_tokens: tokens that are run at once; windows are not split.
        track: progress display.
    """
    model = streamed_model(source, with_head=True)
    layers, generator = layers_of(source, model), torch.Generator().manual_seed(SEED)
    places = {id(model.get_submodule(name)): name for name in names}
    batches = windows.split(max(1, batch_tokens // windows.shape[1]))
    for ids in track(batches, label, len(batches)):
        yield from _of_batch(model, layers, places, ids, generator)


def _of_batch(
    model: Any, layers: list[nn.Module], places: dict[int, str], ids: Tensor, generator: torch.Generator
) -> Iterator[dict[str, Seen]]:
    """Linears by name, those whose id is in `places`, layer by layer."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    def keep(layer: nn.Module, arguments: Any, options: dict[str, Any], output: Any) -> Any:
        calls.append((arguments, options))
        if layer is not layers[-1]:
            return None
        first = _hidden(output).detach().requires_grad_()
        ends.append(first)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    ends: list[Tensor] = []
    hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    try:
        hidden = model.base_model(ids, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    hidden.backward(_of_loss(model.get_output_embeddings(), hidden.detach(), generator))
    gradient = ends[0].grad
    assert gradient is not None
    for layer, (arguments, options) in zip(layers[::-1], calls[::-1], strict=True):
        gradient, seen = _through(layer, arguments, options, gradient, places)
        yield seen


def _through(
    layer: nn.Module, arguments: Any, options: dict[str, Any], gradient: Tensor, places: dict[int, str]
) -> tuple[Tensor, dict[str, Seen]]:
    """The gradient in front of a layer, and its linears."""
    seen: dict[str, Seen] = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach().flatten(0, -2)
        weight: Any = module.weight
        output.register_hook(lambda g: seen.__setitem__(name, Seen(x, weight, g.flatten(0, -2))))

    hooks = [
        module.register_forward_hook(partial(look, places[id(module)]))
        for module in layer.modules()
        if id(module) in places
    ]
    try:
        if arguments:
            x = arguments[0].detach().requires_grad_()
            output = layer(x, *arguments[1:], **options)
        else:
            x = options["hidden_states"].detach().requires_grad_()
            output = layer(**{**options, "hidden_states": x})
        _hidden(output).backward(gradient)
    finally:
        for hook in hooks:
            hook.remove()
    assert x.grad is not None
    return x.grad, seen


def _hidden(output: Any) -> Tensor:
    """Some versions of transformers give a tuple."""
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _of_loss(head: nn.Module, hidden: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient of Σ -log p(label) by the hidden states [..., n] that a linear head reads."""
    parts = []
    with torch.no_grad():
        for part in hidden.flatten(0, -2).split(HEAD_TOKENS):
            by_logits = head(part).softmax(-1)
            labels = torch.multinomial(by_logits, 1, generator=generator)
            parts.append(
                by_logits.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=by_logits.dtype)) @ head.weight
            )
    return torch.cat(parts).view_as(hidden)
