"""What a verification found."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ATTENTION_TOLERANCE",
    "ENGINE_TOLERANCE",
    "ERROR_TOLERANCE",
    "ROTATION_TOLERANCE",
    "ROUNDING_TOLERANCE",
    "VerifyResult",
    "relative_error",
]

ROTATION_TOLERANCE = 1e-4
"""Allowed difference of logits, relative to their largest magnitude."""

ATTENTION_TOLERANCE = 2e-5
"""Allowed difference of attention over counts, relative to the largest output of the layer."""

ENGINE_TOLERANCE = 2e-5
"""Allowed difference of what the engine adds up in floats (attention, SiLU, norms, recurrences, logits) from what the
modules do, relative to the largest of each."""

ROUNDING_TOLERANCE = 0.5 + 1e-3
"""Allowed distance of an integer weight from the source's, in steps; the thousandth is for float32's own rounding."""

ERROR_TOLERANCE = 1e-3
"""Allowed difference of a calibrated weight's distance from the source and the recorded one, as a share of it."""


@dataclass
class VerifyResult:
    """What was checked and what differed; empty lists are good news.

    Attributes:
        linears: converted linears seen.
        accumulators: int32 accumulators compared.
        tokens: tokens of real text that were run.
        different_accumulators: linears whose executions disagree with each other or with the linear's output.
        code_accumulators: int32 accumulators compared between temporal codes and dense, of some linears.
        different_codes: linears and the codes that do not give the accumulators of dense there.
        different_logits: executions of the linears whose logits are not those of the model as loaded.
        rows: keys and values compared, where they are counts.
        different_rows: attention layers whose rows are not those of the reference.
        attention_error: largest |Δ| of attention between executions, and of one query from all at once, relative to
            its largest output; None where keys and values are float.
        engine_outputs: numbers that the engine computed on the way to its logits, compared with the modules'.
        different_in_engine: layers and what in them is not the same bits.
        engine_error: largest |Δ| of what it adds up in floats (attention, SiLU, norms, recurrences, logits), relative
            to the largest number of each; None where the engine does not run the model.
        float_caches: layers of the cache that do not hold spike counts, though the checkpoint asks for them.
        uncalled: converted linears that the forward pass never called.
        changed_files: weight files whose hash is not the recorded one.
        source_reader: what read the source: `transformers`, or `spikeconv` where that is impossible; None without one.
        rotation_error: max |Δ y| / max |y| of rotated against source weights; None without the source.
        rotation_of: what y is: logits, or where a model has neurons the outputs of each linear by itself.
        float_tensors: tensors that stayed float and were compared with the source's.
        different_tensors: those that are not the source's, and those of the source that are not there.
        rounding_error: largest distance of an integer weight from the rotated source's, in steps of its channel and
            inside the clip: at most a half.
        different_weights: converted linears whose weights are not the source's, rotated and rounded.
        calibrated: converted linears whose weights were rounded for their inputs, and so need not be the nearest.
        calibrated_error: largest ‖Ŵ - W‖ / ‖W‖ of them; each must be the recorded one.
        second_weights: tensors of which the source's folder holds another version, which other programs may read.
        notes: what could not be checked.
    """

    linears: int = 0
    accumulators: int = 0
    tokens: int = 0
    different_accumulators: list[str] = field(default_factory=list)
    code_accumulators: int = 0
    different_codes: list[str] = field(default_factory=list)
    different_logits: list[str] = field(default_factory=list)
    uncalled: list[str] = field(default_factory=list)
    rows: int = 0
    different_rows: list[str] = field(default_factory=list)
    attention_error: float | None = None
    engine_outputs: int = 0
    different_in_engine: list[str] = field(default_factory=list)
    engine_error: float | None = None
    float_caches: list[str] = field(default_factory=list)
    changed_files: list[str] = field(default_factory=list)
    source_reader: str | None = None
    rotation_error: float | None = None
    rotation_of: str = "the source's logits"
    float_tensors: int = 0
    different_tensors: list[str] = field(default_factory=list)
    rounding_error: float | None = None
    different_weights: list[str] = field(default_factory=list)
    calibrated: int = 0
    calibrated_error: float | None = None
    second_weights: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing differed."""
        faults = (
            self.different_accumulators,
            self.different_codes,
            self.different_logits,
            self.different_rows,
            self.different_in_engine,
            self.float_caches,
            self.uncalled,
            self.changed_files,
            self.different_tensors,
            self.different_weights,
            self.second_weights,
        )
        exact = not any(faults) and (self.attention_error or 0) <= ATTENTION_TOLERANCE
        exact = exact and (self.engine_error or 0) <= ENGINE_TOLERANCE
        return exact and (self.rotation_error or 0) <= ROTATION_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"clean": self.clean, **asdict(self)}


def relative_error(found: "Tensor", expected: "Tensor") -> float:
    """Largest |Δ|, relative to the largest number that was expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
