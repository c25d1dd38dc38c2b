"""Keys and values as spike counts (SDLLM, section 4.4): what one attention layer needs to write and to use them."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.codecs import Encoded, encode_widths
from spikeconv.codes import code_for
from spikeconv.config import KvSettings
from spikeconv.nn import gradients
from spikeconv.rotation import Rotation

__all__ = ["COUNT_ATTENTION", "KvCode", "attention_codes", "rows_of_two"]

COUNT_ATTENTION = "spikeconv"
"""Name of the attention over keys and values that are counts, in `config._attn_implementation`."""

Observer = Callable[[int, int, Tensor, int], None]

CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a group's range that are tried. One for all groups costs more: a wide one steps, a narrow one peaks."""


class KvCode:
    """The code of one attention layer's keys and values; `observers`, by `k` and `v`, are told of every encoding: how
    many inputs it has, how many of them a key or value, the histogram of `ops.encode_rows` and the count of its bin 0.

    Another `scheme` brings other rows; `seed` is that of the rotation.

    Keys (after their rotary embedding), queries and values are rotated over head_dim. That leaves the products of keys
    and queries as they are; the output is rotated back.

    Where salient channels have a bit more (`low_share`) a row is twice as wide: the counts of the others, then those
    of the salient ones, each in a group with the scale of its width, and in the place of the channels that are in the
    other half the zero point, which adds nothing. `holders` has, by `k` and `v`, the linear whose `output_salient` says
    which those are.
    """

    def __init__(self, scheme: KvSettings, head_dim: int, seed: int) -> None:
        self.head_dim, self.seed = head_dim, seed
        self.scheme = scheme
        self.execution = "dense"
        self.observers: dict[str, list[Observer]] = {"k": [], "v": []}
        self.holders: dict[str, nn.Module] = {}

    @property
    def scheme(self) -> KvSettings:
        """Settings of keys and values."""
        return self._scheme

    @scheme.setter
    def scheme(self, scheme: KvSettings) -> None:
        self._scheme = scheme
        self.group = scheme.group or self.head_dim
        self.width = self.head_dim * (2 if scheme.selects else 1)
        self.code = code_for(scheme.code)
        self.rotation = Rotation(self.head_dim, self.seed)
        bits = scheme.bits + scheme.selects
        self.settings = ops.RowSettings(bits, self.group, scheme.symmetric, CLIP_RATIOS)
        kind = "signed" if scheme.symmetric else "unsigned"
        self.geometry = (
            f"{scheme.bits}-bit {kind} counts of {self.head_dim} in groups of {self.group}, seed {self.seed}"
            + (", a bit more in salient channels" if scheme.selects else "")
        )
        """What two codes must agree on to read each other's rows."""

    @property
    def tops(self) -> tuple[int, int]:
        """Largest counts where some channels have a bit more: of the others, and theirs."""
        return (1 << self.scheme.bits) - 1, self.scheme.largest_count

    @property
    def row_bytes(self) -> int:
        """Bytes of one key or value of one head."""
        return ops.row_bytes(self.width, self.settings)

    def rows(self, states: Tensor, kind: Literal["k", "v"]) -> Tensor:
        """Rows uint8 [..., row_bytes] of keys or values [..., head_dim]."""
        factors, observers = self.rotation.on(states.device), tuple(self.observers[kind])
        if self.scheme.selects:
            rows, histogram = self._rows_of_two(states, kind, bool(observers))
        else:
            rows, histogram = ops.encode_rows(states, factors, self.settings.table(), bool(observers))
        self._tell(observers, states.numel(), histogram)
        return rows

    def tell(self, kind: Literal["k", "v"], rows: Tensor) -> None:
        """Tell observers of rows uint8 [..., row_bytes] of keys or values, all of one width, that the engine made."""
        observers = tuple(self.observers[kind])
        if observers:
            counts = ops.unpack_rows(rows, self.head_dim, self.settings)[0]
            histogram = ops.histogram_of(counts, self.settings.count_min, self.settings.bins)
            self._tell(observers, counts.numel(), histogram)

    def _tell(self, observers: tuple[Observer, ...], inputs: int, histogram: Tensor) -> None:
        for observer in observers:
            observer(inputs, self.head_dim, histogram, self.settings.count_min)

    def _rows_of_two(self, states: Tensor, kind: str, histogram: bool) -> tuple[Tensor, Tensor]:
        """Rows of states [batch, heads, tokens, head_dim] whose salient channels have a bit more, and the histogram."""
        u, salient = self.rotation(states), self.salient(kind)
        low, high = encode_widths(u, self.tops)
        seen = torch.where(salient, high[0], low[0]) if histogram else low[0]
        bins = ops.histogram_of(seen, 0, self.scheme.largest_count + 1 if histogram else 0)
        return rows_of_two(low, high, salient, self.settings.bits), bins

    def salient(self, kind: str) -> Tensor:
        """Which channels of keys or values have a bit more, bool [heads, 1, head_dim]."""
        chosen = self.holders[kind]._buffers["output_salient"]
        assert chosen is not None, "a key or value with salient channels has a linear that knows them"
        return chosen.bool().view(-1, 1, self.head_dim)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of query [batch, heads, tokens, head_dim] over rows: the same shape and dtype as the query.

        Gradients reach the query, and the states that the latest rows were made of (see `with_states`), as through
        attention over the keys and values that the rows stand for.
        """
        if not gradients.flow(query, *(_states_of(rows) for rows in (keys, values))):
            rotated = self._folded(self._sums(self._spread(self.rotation(query)), keys, values, mask, scaling))
            return self.rotation.inverse(rotated).to(query.dtype)
        query_rotated = gradients.rotated(query, self.rotation)
        with torch.no_grad():
            value = self._folded(self._sums(self._spread(query_rotated), keys, values, mask, scaling))
        surrogate = gradients.attention(query_rotated, self._floats(keys), self._floats(values), mask, scaling)
        attended = gradients.straight(value, surrogate)
        return gradients.turned_back(attended, self.rotation).to(query.dtype)

    def _spread(self, query: Tensor) -> Tensor:
        """A query [..., head_dim] as wide as the rows."""
        return torch.cat((query, query), -1) if self.scheme.selects else query

    def _folded(self, values: Tensor) -> Tensor:
        """Values [..., head_dim] of values as wide as the rows."""
        return values.unflatten(-1, (-1, self.head_dim)).sum(-2) if self.scheme.selects else values

    def _sums(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of a rotated query, float32, as the execution has it."""
        arguments = query, keys, values, mask, scaling, self.settings.table()
        if self.execution != "unfold" or self.scheme.code.kind == "unary":  # which the kernels unfold by themselves
            return ops.attend(*arguments, self.execution)  # type: ignore[no-any-return]
        digits = self.code.digits(self.scheme.largest_count).to(query.device)
        return ops.attend_slots(*arguments, digits, self.code.membrane)

    def with_states(self, rows: Tensor, states: Tensor) -> Tensor:
        """Rows [..., length, row_bytes] that know the states [..., tokens, head_dim] that the latest were made of."""
        if not gradients.flow(states):
            return rows
        rows = rows.view_as(rows)  # what is kept in a cache must not keep a graph
        rows._spikeconv_states = states  # type: ignore[attr-defined]
        return rows

    def _floats(self, rows: Tensor) -> Tensor:
        """What rows stand for, rotated, float32 [..., length, head_dim]; gradients pass to their states."""
        counts, scale, zero = ops.unpack_rows(rows, self.width, self.settings)
        decoded = self._folded((scale * (counts if zero is None else counts - zero)).flatten(-2))
        states = _states_of(rows)
        if states is None:
            return decoded
        past, latest = decoded.split((decoded.shape[-2] - states.shape[-2], states.shape[-2]), -2)
        return torch.cat((past, gradients.straight(latest, gradients.rotated(states, self.rotation))), -2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "observers": {"k": [], "v": []}}


def rows_of_two(low: Encoded, high: Encoded, salient: Tensor, bits: int) -> Tensor:
    """Rows twice as wide as states that were encoded in two widths.

    Args:
        low: counts [..., head_dim], scale and zero point [..., 1] of the channels that are not salient.
        high: the same of the salient ones.
        salient: bool, which those are.
        bits: of the wider counts.

    Returns:
        uint8 [..., row_bytes].
    """
    halves = [torch.where(salient, low[2], low[0]), torch.where(salient, high[0], high[2])]
    scale, zero = (torch.stack((low[part], high[part]), -2) for part in (1, 2))
    return ops.pack_rows(torch.stack(halves, -2), scale, zero, bits)


def _states_of(rows: Tensor) -> Tensor | None:
    return getattr(rows, "_spikeconv_states", None)


def attention_codes(model: nn.Module) -> dict[str, KvCode]:
    """The codes of a model's attention layers by module name; empty where keys and values stay float."""
    found = ((name, getattr(module, "kv", None)) for name, module in model.named_modules())
    return {name: code for name, code in found if isinstance(code, KvCode)}
