"""What the neurons that are part of a model (SpikeGPT's) send, while it runs."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from spikeconv.record.watching import Undo, Watching

__all__ = ["NeuronRecord", "NeuronRecorder", "NeuronTrain", "neurons_of"]


@dataclass(frozen=True)
class NeuronRecord:
    """The neurons at one place of a model, one for each channel.

    Attributes:
        name: module name.
        channels: neurons.
        tokens: time steps seen.
        spikes: sent by all of them.
    """

    name: str
    channels: int
    tokens: int
    spikes: int

    @property
    def firing_rate(self) -> float:
        """Spikes of a neuron and token."""
        return self.spikes / (self.tokens * self.channels) if self.tokens else 0.0


class NeuronTrain(NamedTuple):
    """One forward: spikes, and the potential U before the reset, [batch, tokens, channels]."""

    spikes: Tensor
    potentials: Tensor


@dataclass
class _Seen:
    channels: int = 0
    tokens: int = 0
    spikes: int = 0
    trains: list[NeuronTrain] = field(default_factory=list)


def neurons_of(model: nn.Module) -> dict[str, Any]:
    """A model's own neurons by module name: modules that say `is_neuron`."""
    return {name: module for name, module in model.named_modules() if getattr(module, "is_neuron", False)}


class NeuronRecorder(Watching):
    """Records them while the context is open.

    Args:
        model: any model; one without neurons records nothing.
        kept: names of those whose trains are kept.
    """

    def __init__(self, model: nn.Module, kept: Collection[str] = ()) -> None:
        self._neurons, self._kept = neurons_of(model), set(kept)
        self._seen = {name: _Seen() for name in self._neurons}

    def watch(self) -> Iterable[Undo]:
        """See every forward of theirs."""
        for name, neuron in self._neurons.items():
            yield neuron.register_forward_hook(partial(self._see, name)).remove

    @property
    def records(self) -> tuple[NeuronRecord, ...]:
        """Of those that were run, in order."""
        return tuple(
            NeuronRecord(name, seen.channels, seen.tokens, seen.spikes)
            for name, seen in self._seen.items()
            if seen.tokens
        )

    def trains(self, name: str) -> list[NeuronTrain]:
        """What was kept of one, forward by forward."""
        return self._seen[name].trains

    def _see(self, name: str, neuron: Any, arguments: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        spikes, seen = output[0].detach(), self._seen[name]
        seen.channels = spikes.shape[-1]
        seen.tokens += spikes.numel() // seen.channels
        seen.spikes += int(spikes.sum())
        if name in self._kept:
            seen.trains.append(NeuronTrain(spikes.bool().clone(), neuron.potentials(*arguments)))
