"""Proves a checkpoint: same bits in every execution, every module used, files intact, rotation harmless.

The rotation is checked with the float source: rotated but not rounded (scheme 16-16), it must give the source's
logits, since H D is orthogonal.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.config import FLOAT_BITS, SpikeConfig
from spikeconv.conversion.linear import convert_linear
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import LoadedModel, load_source, read_record
from spikeconv.families import family_of, folded_norms
from spikeconv.integrations.transformers import swap_linears
from spikeconv.nn import KvCode, SpikeLinear, attention_codes, set_execution, spike_linears
from spikeconv.nn.attention import CLIP_RATIOS
from spikeconv.ops.attention import encode_rows as reference_rows
from spikeconv.progress import Track, silent
from spikeconv.wheels import sha256_of

__all__ = ["VerifyResult", "verify"]

ROTATION_TOLERANCE = 1e-4
"""Allowed difference of logits, relative to their largest magnitude."""

ATTENTION_TOLERANCE = 2e-5
"""Allowed difference of attention over counts, relative to the largest output of the layer."""


@dataclass
class VerifyResult:
    """What was checked and what differed; empty lists are good news.

    Attributes:
        linears: converted linears seen.
        accumulators: int32 accumulators compared.
        tokens: tokens of real text that were run.
        different_accumulators: linears whose executions disagree with each other or with the linear's output.
        different_logits: executions of the linears whose logits are not those of the model as loaded.
        rows: keys and values compared, where they are counts.
        different_rows: attention layers whose rows are not those of the reference.
        attention_error: largest |Δ| of attention between executions, and of one query from all at once, relative to
            its largest output; None where keys and values are float.
        uncalled: converted linears that the forward pass never called.
        changed_files: weight files whose hash is not the recorded one.
        rotation_error: max |Δ logits| / max |logits| of rotated against source weights; None without the source.
        notes: what could not be checked.
    """

    linears: int = 0
    accumulators: int = 0
    tokens: int = 0
    different_accumulators: list[str] = field(default_factory=list)
    different_logits: list[str] = field(default_factory=list)
    uncalled: list[str] = field(default_factory=list)
    rows: int = 0
    different_rows: list[str] = field(default_factory=list)
    attention_error: float | None = None
    changed_files: list[str] = field(default_factory=list)
    rotation_error: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing differed."""
        faults = (
            self.different_accumulators,
            self.different_logits,
            self.different_rows,
            self.uncalled,
            self.changed_files,
        )
        exact = not any(faults) and (self.attention_error or 0) <= ATTENTION_TOLERANCE
        return exact and (self.rotation_error or 0) <= ROTATION_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"clean": self.clean, **asdict(self)}


def verify(
    loaded: LoadedModel, text: str, *, tokens: int = 32, source: bool = True, track: Track = silent
) -> VerifyResult:
    """Check a loaded checkpoint on the first tokens of a text.

    Args:
        loaded: the checkpoint.
        text: real text; its activations drive the comparison.
        tokens: how many tokens of it.
        source: also compare with the float source, if it is still there.
        track: progress display.
    """
    result = VerifyResult(changed_files=_changed_files(loaded.path))
    ids = loaded.tokenizer(text, return_tensors="pt").input_ids[:, :tokens].to(loaded.model.device)
    result.tokens = ids.shape[1]
    if not result.tokens:
        raise SpikeconvError("The text is empty; give one with at least one token.")
    _compare_executions(loaded.model, ids, result, track)
    _compare_attention(loaded.model, ids, result)
    if source:
        _compare_with_source(loaded, ids, result)
    return result


def _changed_files(path: Path) -> list[str]:
    files = read_record(path)["files"]
    return [name for name, digest in files.items() if not (path / name).is_file() or sha256_of(path / name) != digest]


def _compare_executions(model: Any, ids: Tensor, result: VerifyResult, track: Track) -> None:
    linears = spike_linears(model)
    result.linears = len(linears)
    before = next(iter(linears.values())).execution
    called: set[str] = set()

    def compare(name: str, linear: SpikeLinear, x: Tensor, y: Tensor) -> None:
        called.add(name)
        if (encoding := linear.encoder(x)).spikes is None or linear.weight_scale is None:
            return
        accumulators = [linear.accumulate(encoding, execution) for execution in ops.EXECUTIONS]
        result.accumulators += accumulators[0].numel()
        expected = linear.scaled(accumulators[0], encoding, x.dtype)
        same = all(torch.equal(acc, accumulators[0]) for acc in accumulators)
        if not same or not torch.equal(y, expected):
            result.different_accumulators.append(name)

    hooks = [
        linear.register_forward_hook(lambda module, args, y, name=name: compare(name, module, args[0], y))
        for name, linear in linears.items()
    ]
    with torch.inference_mode():
        try:
            expected = model(ids, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        result.uncalled = [name for name in linears if name not in called]
        for execution in track(ops.EXECUTIONS, "comparing executions", len(ops.EXECUTIONS)):
            set_execution(model, execution, attention=False)
            if not torch.equal(model(ids, use_cache=False).logits, expected):
                result.different_logits.append(execution)
    set_execution(model, before, attention=False)


def _compare_attention(model: Any, ids: Tensor, result: VerifyResult) -> None:
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
        scheme = self.scheme
        signs, bases, power = self.rotation.on(states.device)
        settings = scheme.count_bits, self.group, scheme.symmetric
        expected, _ = reference_rows(states, signs, bases, power, *settings, CLIP_RATIOS, False)
        self._result.rows += rows[..., 0].numel()
        if not torch.equal(rows, expected):
            self._result.different_rows.append(f"{self._name}.{kind}")
        return rows

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


def _compare_with_source(loaded: LoadedModel, ids: Tensor, result: VerifyResult) -> None:
    record = read_record(loaded.path)
    if not Path(record["source"]["path"]).exists():
        result.notes.append(f"the source {record['source']['path']} is gone: rotation not compared with it")
        return
    source = load_source(loaded.path, device=str(loaded.model.device), dtype="float32").model
    with torch.inference_mode():
        expected = source(ids, use_cache=False).logits
        rotate_only(source, SpikeConfig.parse(record["config"]))
        found = source(ids, use_cache=False).logits
    result.rotation_error = float((found - expected).abs().max() / expected.abs().max())


def rotate_only(model: Any, config: SpikeConfig) -> None:
    """Rotate the linears of a float model in place, weights and inputs, without rounding either."""
    overrides = {
        "codec": "count",
        "clip_mode": "none",
        "weight_bits": FLOAT_BITS,
        "spikes": "float",
        "count_bits": FLOAT_BITS,
        "count_range": "standard",
    }
    exact = SpikeConfig.parse({**config.model_dump(), **overrides, "overrides": []})
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    swapped = swap_linears(model, exact)
    layout = family_of(model).layout(model.config.num_hidden_layers)
    folded = folded_norms(layout, swapped) if exact.rotation == "quarot" else {}
    for name in {**swapped, **folded}:
        gamma = model.get_submodule(folded[name]).weight.data if name in folded else None
        if name in swapped:
            center = swapped[name].encoder.center
            constant = None if center is None else center.bias.data
            tensors = convert_linear(linears[name].weight.data, exact, gamma, constant).tensors
            swapped[name].load_state_dict(tensors, strict=False)  # a bias of its own stays
        elif gamma is not None:
            linears[name].weight.data.mul_(gamma)
    for norm in set(folded.values()):
        model.get_submodule(norm).weight.data.fill_(1)
