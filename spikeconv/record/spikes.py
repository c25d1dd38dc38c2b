"""The spikes of a model while a context is open: rates and histograms of every layer, spike trains of chosen ones."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from torch import Tensor, nn

from spikeconv.errors import SpikeconvError
from spikeconv.families import linears_of
from spikeconv.nn import attention_codes, spike_linears
from spikeconv.record.layers import cache_records, layer_records
from spikeconv.record.neurons import NeuronRecord, NeuronRecorder, NeuronTrain, neurons_of
from spikeconv.record.record import CacheRecord, LayerRecord
from spikeconv.record.recorder import Recorder
from spikeconv.record.watching import Kept, KeptCounts
from spikeconv.suggest import matching

__all__ = ["Spikes"]


class Spikes(Mapping[str, LayerRecord]):
    """A mapping from the names of the linears that saw an input to what was recorded, also while it goes on.

    Args:
        model: a converted model, or one with neurons of its own (SpikeGPT).
        trains: names or shell patterns of linears whose counts are kept, and of neurons whose spikes are.

    Raises:
        SpikeconvError: the model has no spikes, or a pattern matches none of its linears and neurons.
    """

    def __init__(self, model: nn.Module, trains: tuple[str, ...] = ()) -> None:
        self._model, self._linears = model, spike_linears(model)
        neurons = neurons_of(model)
        if not self._linears and not attention_codes(model) and not neurons:
            raise SpikeconvError(f"This {type(model).__name__} is not converted: it has no spikes.")
        chosen = matching([*self._linears, *neurons], trains)
        linears_of(model)  # told apart by their names in it: no wrapper has those
        self._recorder = Recorder(model)
        self._schemes = {name: linear.scheme for name, linear in self._linears.items()}
        self._own = NeuronRecorder(model, [name for name in chosen if name in neurons])
        self._counts = KeptCounts(model, [name for name in chosen if name in self._linears])
        self._is_open = False

    def __enter__(self) -> Self:
        if self._is_open:
            raise SpikeconvError("These spikes are being recorded already; open another record_spikes(model).")
        if any(linear.scheme != self._schemes[name] for name, linear in self._linears.items()):
            raise SpikeconvError("The model's settings were changed since; open another record_spikes(model).")
        self._is_open = True
        self._recorder.__enter__()
        self._own.__enter__()
        self._counts.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._counts.__exit__(kind, error, trace)
        self._recorder.__exit__(kind, error, trace)
        self._own.__exit__(kind, error, trace)

    def __getitem__(self, name: str) -> LayerRecord:
        return self._layers()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers())

    def __len__(self) -> int:
        return len(self._layers())

    def _layers(self) -> dict[str, LayerRecord]:
        layers = layer_records(self._model, self._recorder)
        return {layer.name: replace(layer, scheme=self._schemes[layer.name]) for layer in layers}

    @property
    def cache(self) -> dict[str, CacheRecord]:
        """Keys and values by `k` and `v`; empty where those are float."""
        return cache_records(self._model, self._recorder)

    @property
    def firing_rate(self) -> float | None:
        """Mean of all layers, weighted by multiply-accumulates; None where counts are sent whole, or none were seen."""
        layers = list(self._layers().values())
        weights = [layer.tokens * layer.in_features * layer.out_features for layer in layers]
        rates = [layer.firing_rate for layer in layers]
        if not layers or None in rates:
            return None
        return sum(rate * weight for rate, weight in zip(rates, weights, strict=True) if rate) / sum(weights)

    @property
    def neurons(self) -> dict[str, NeuronRecord]:
        """The model's own neurons by module name, of the places that were run."""
        return {record.name: record for record in self._own.records}

    def raster(self, name: str, forward: int = -1) -> NeuronTrain:
        """Spikes bool and potentials U float32 of a model's own neurons [batch, tokens, channels] (SpikeGPT, fig. 4).

        Args:
            name: neurons whose spikes are kept.
            forward: which, from 0 on; -1 is the latest.

        Raises:
            SpikeconvError: they are not kept, or there was no such forward.
        """
        trains = self._own.trains(name) if name in neurons_of(self._model) else []
        if not -len(trains) <= forward < len(trains):
            raise SpikeconvError(
                f"No forward {forward} of neurons {name} is kept: record_spikes(model, trains=[{name!r}]), then run it."
            )
        return trains[forward]

    def counts(self, name: str, forward: int = -1) -> Tensor:
        """Counts of a linear's input in one of its forwards: int8 or int16 [tokens…, in], or [planes, tokens…, in].

        Args:
            name: a linear whose counts are kept.
            forward: which, from 0 on; -1 is the latest.

        Raises:
            SpikeconvError: its counts are not kept, or there was no such forward.
        """
        return self._find(name, forward).spikes.counts

    def train(self, name: str, forward: int = -1) -> Tensor:
        """The spike train of a linear's input, through its temporal code: int8 [slots, tokens…, in] of -1, 0 and 1.

        Args:
            name: a linear whose counts are kept.
            forward: which, from 0 on; -1 is the latest.

        Raises:
            SpikeconvError: its counts are not kept, or there was no such forward.
        """
        return self._find(name, forward).train()

    def _find(self, name: str, forward: int) -> Kept:
        if name not in self._counts.kept:
            raise SpikeconvError(f"The counts of {name} are not kept: record_spikes(model, trains=[{name!r}]).")
        kept = self._counts.kept[name]
        if not -len(kept) <= forward < len(kept):
            raise SpikeconvError(f"{name} was run {len(kept)} times while recorded; there is no forward {forward}.")
        return kept[forward]
