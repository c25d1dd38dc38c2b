"""Calibration layer by layer, for weights that are rounded for their inputs.

Two networks run side by side on windows of a text: the float one, and the one that the conversion makes. What stands in
front of a group of linears is looked at in both, the group is converted with it, and what comes behind sees its spikes
("true sequential": q, k and v; o; gate and up; down). One layer of each is in memory, and all hidden states.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from spikeconv.calibrate.moments import Moments
from spikeconv.calibrate.stream import Load, Stream, release
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, ModuleLinear, Stack
from spikeconv.integrations.transformers import make_spiking
from spikeconv.nn import Encoder, SpikeLinear, arrange_weights
from spikeconv.sources.model_config import build_unloaded
from spikeconv.weights import Statistics

__all__ = ["BATCH_TOKENS", "Sequential", "why_not"]

BATCH_TOKENS = 4096
"""Tokens that are run at once."""

KEPT_BYTES = 1 << 30
"""Inputs of o or down that are kept, so that their outputs need no second run of what stands in front of them."""

Convert = Callable[[str, Statistics | None], dict[str, Tensor]]
"""Tensors by buffer name of a linear, from its name and what its inputs look like (None: it does not ask)."""


def why_not(family: Family) -> str | None:
    """Why the weights of a family cannot be calibrated; None if they can."""
    if len(family.stacks) == 1 and family.stacks[0].native is not None:
        return None
    return f"{family.architecture} is no stack of attention and gated feed-forward, so its weights can only be rtn"


@dataclass(frozen=True)
class _Group:
    """Linears of one input, in half a layer."""

    half: int
    linears: list[ModuleLinear]


@dataclass(frozen=True)
class _Inputs:
    """The inputs [windows, tokens, in] of the last linear in half a layer, batch by batch."""

    writer: str
    batches: list[Tensor]


class Sequential:
    """Both networks, and what was converted so far; the float one only where something is compared with it.

    Args:
        family: their family.
        model_config: of transformers.
        config: the settings of the conversion.
        load: gives float tensors by name, in the basis of the conversion (with the norms that it folds folded).
        windows: token ids [windows, tokens].
        importance: a [windows, tokens] float32 by group, of those whose tokens do not count all the same.
        salient: the channels with more bits by module name, where the codec has some.
        batch_tokens: tokens that are run at once; windows are not split.

    Raises:
        SpikeconvError: the family is no gated decoder.
    """

    def __init__(
        self,
        family: Family,
        model_config: PretrainedConfig,
        config: SpikeConfig,
        load: Load,
        windows: Tensor,
        importance: Mapping[str, Tensor] | None = None,
        salient: Mapping[str, Tensor] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        if reason := why_not(family):
            raise SpikeconvError(f"Weights that are calibrated: {reason}.")
        self._stack: Stack = family.stacks[0]
        parts = self._stack.native
        assert parts is not None
        self._attention = parts.attention
        self._writers = {f"{parts.attention}.{parts.o}", f"{parts.feed_forward}.{parts.down}"}
        self._config, self._batch = config, max(1, batch_tokens // windows.shape[1])
        self._layout: dict[int, dict[str, list[ModuleLinear]]] = defaultdict(lambda: defaultdict(list))
        for linear in family.layout(model_config):
            self._layout[linear.layer][linear.group].append(linear)
        self._kept: dict[str, _Inputs] = {}
        self._known: set[str] = set()
        self._importance, self._salient = importance or {}, salient or {}
        # Each of its own config, in which a model remembers how it attends.
        models: list[Any] = [build_unloaded(copy.deepcopy(model_config)) for _ in range(2)]
        self.linears: dict[str, SpikeLinear] = make_spiking(models[0], config)
        streams = (Stream(model, self._stack.layers, parts, load, windows, self._batch) for model in models)
        self.spiking = next(streams)
        compares = any(linear.scheme.weights.sees_float for linear in self.linears.values())
        self.float = next(streams) if compares else None

    def _streams(self) -> list[tuple[str, Stream]]:
        return [("spiking", self.spiking), *([] if self.float is None else [("float", self.float)])]

    @property
    def groups(self) -> int:
        """How many groups of linears there are."""
        return sum(map(len, self._layout.values()))

    @torch.no_grad()
    def convert(self, convert: Convert, known: Collection[str] = ()) -> Iterator[dict[str, Tensor]]:
        """Convert group after group; gives the tensors of each by name, as `convert` makes them.

        Args:
            convert: makes them.
            known: linears that it does not have to make: what their inputs look like is not asked.
        """
        self._known = set(known)
        for index, groups in self._layout.items():
            left = [f"{name}.{kind}" for name, linear in self.linears.items() for kind in self._made(name, linear)]
            self.spiking.bring(index, left)
            if self.float is not None:
                self.float.bring(index)
            done = 0
            for linears in groups.values():
                half = 0 if self._below(linears[0]).startswith(f"{self._attention}.") else 1
                if half > done:
                    self._advance(index, done)
                    done = half
                yield self._convert_group(index, _Group(half, linears), convert)
            self._advance(index, done)
            for _, stream in self._streams():
                release(stream.layer(index))

    def _made(self, name: str, linear: SpikeLinear) -> list[str]:
        """Parameters of a converted linear that its source may lack."""
        return ["bias"] if linear.scheme.weights.has_bias else []

    def _advance(self, index: int, half: int) -> None:
        """Go on behind half a layer: from the inputs of its last linear if they were kept, with the same bits."""
        kept, self._kept = self._kept, {}
        for name, stream in self._streams():
            if (inputs := kept.get(name)) is None:
                stream.advance(index, half)
                continue
            writer = stream.model.get_submodule(inputs.writer)
            for windows, x in zip(stream.batches(), inputs.batches, strict=True):
                stream.hidden[windows] += writer(x)

    def _convert_group(self, index: int, group: _Group, convert: Convert) -> dict[str, Tensor]:
        names = [linear.name for linear in group.linears if linear.name in self.linears]
        for name in names:
            if (salient := self._salient.get(name)) is not None:  # the encoder asks for it before anything is converted
                self.linears[name].input_salient = salient
        sums = self._look(index, group, names)
        result: dict[str, Tensor] = {}
        for name in names:
            linear = self.linears[name]
            tensors = convert(name, sums.get(id(linear.encoder)) if linear.scheme.weights.is_calibrated else None)
            floats = {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}
            if linear.bias is not None and "bias" not in floats:
                floats["bias"] = linear.bias
            linear.load_state_dict(floats, assign=True)
            result |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        arrange_weights(self.spiking.layer(index))
        return result

    def _look(self, index: int, group: _Group, names: list[str]) -> dict[int, Statistics]:
        """The moments of the inputs of a group's calibrated linears, by the encoder that encodes them."""
        unknown = [self.linears[name] for name in names if name not in self._known]
        asking = [linear for linear in unknown if linear.scheme.weights.is_calibrated]
        is_writer = self._below(group.linears[0]) in self._writers
        moments: dict[int, tuple[Encoder, Moments]] = {}
        for linear in asking:
            settings = [each.scheme.weights for each in asking if each.encoder is linear.encoder]
            residual = is_writer and any(each.residual for each in settings)
            compares = residual or any(each.method != "gptq" or each.has_bias for each in settings)
            sums = Moments(linear.in_features, compares, linear.out_features if residual else None)
            moments.setdefault(id(linear.encoder), (linear.encoder, sums))
        if not moments:
            return {}
        first, floating = group.linears[0].name, any(sums.compares for _, sums in moments.values())
        importance = self._importance.get(group.linears[0].group)
        seen = {name: _Inputs(first, []) for name, _ in self._streams()}
        fits = 4 * len(seen) * self.spiking.hidden[..., 0].numel() * asking[0].in_features <= KEPT_BYTES
        keeps = is_writer and fits
        for windows in self.spiking.batches():
            x = {
                name: stream.seen(index, group.half, windows, stream.model.get_submodule(first))
                for name, stream in self._streams()
                if keeps or floating or name == "spiking"
            }
            lack = None if self.float is None else self.float.hidden[windows] - self.spiking.hidden[windows]
            for encoder, sums in moments.values():
                decoded, potential = encoder(x["spiking"]).decode().flatten(0, -2), None
                if sums.compares:
                    potential = _without_norm(encoder).potential(x["float"]).flatten(0, -2)
                wanted = None if lack is None else lack.flatten(0, 1)
                sums.add(decoded, potential, wanted, None if importance is None else importance[windows].flatten())
            for name, each in x.items() if keeps else ():
                seen[name].batches.append(each)
        self._kept = seen if keeps else {}
        return {key: sums.statistics() for key, (_, sums) in moments.items()}

    def _below(self, linear: ModuleLinear) -> str:
        """Its name below its layer."""
        return linear.name.removeprefix(f"{self._stack.layers}.{linear.layer}.")


def _without_norm(encoder: Encoder) -> Encoder:
    """The encoder of an input that has passed its norm already, as that of the float network has."""
    result = copy.copy(encoder)
    result.norm = None
    return result
