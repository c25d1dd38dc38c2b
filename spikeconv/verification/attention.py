"""Whether keys and values are encoded as the reference does, and attention over them is the same in every execution."""

from typing import Any, Literal

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs import encode_widths
from spikeconv.nn import KvCode, attention_codes
from spikeconv.nn.attention import rows_of_two
from spikeconv.ops.attention import encode_rows as reference_rows
from spikeconv.ops.encoding import encode as reference_encode
from spikeconv.ops.encoding import rotate as reference_rotate
from spikeconv.verification.result import VerifyResult

__all__ = ["compare_attention"]


def compare_attention(model: Any, ids: Tensor, result: VerifyResult) -> None:
    """Run a model whose keys and values are counts, and compare every layer's; nothing where they are float.

    Args:
        model: a converted model.
        ids: token ids [batch, tokens] on its device.
        result: where to note what is found.
    """
    codes = attention_codes(model)
    if not codes:
        return
    for name, code in codes.items():
        model.get_submodule(name).kv = _CheckedCode(code, name, result)
    try:
        with torch.inference_mode():
            model(ids, use_cache=False, logits_to_keep=1)
    finally:
        for name, code in codes.items():
            model.get_submodule(name).kv = code


class _CheckedCode(KvCode):
    """Compares what it gives with the other ways to it: rows byte by byte, attention, which adds floats, in size."""

    def __init__(self, code: KvCode, name: str, result: VerifyResult) -> None:
        self.__dict__.update(code.__dict__)
        self._name, self._result = name, result

    def rows(self, states: Tensor, kind: Literal["k", "v"]) -> Tensor:
        rows = super().rows(states, kind)
        expected = self._expected(states, kind)
        self._result.rows += rows[..., 0].numel()
        if not torch.equal(rows, expected):
            self._result.different_rows.append(f"{self._name}.{kind}")
        return rows

    def _expected(self, states: Tensor, kind: str) -> Tensor:
        factors = self.rotation.on(states.device)
        if not self.scheme.selects:
            return reference_rows(states, factors, self.settings.table(), False)[0]
        u = reference_rotate(states, factors)
        low, high = encode_widths(u, self.tops, reference_encode)
        return rows_of_two(low, high, self.salient(kind), self.settings.bits)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        y = super().attend(query, keys, values, mask, scaling)
        last = super().attend(query[:, :, -1:], keys, values, None if mask is None else mask[..., -1:, :], scaling)
        errors = [(last - y[:, :, -1:]).abs().max()]
        chosen = self.execution
        for self.execution in ops.EXECUTIONS:
            errors.append((super().attend(query, keys, values, mask, scaling) - y).abs().max())
        self.execution = chosen
        error = float(torch.stack(errors).max() / y.abs().max())
        self._result.attention_error = max(error, self._result.attention_error or 0.0)
        return y
