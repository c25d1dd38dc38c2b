"""Settings as a tree of mappings, whichever way they were written: nested, by dotted paths, or in short forms.

    {"inputs.clip_ratio": 0.8, "seed": 3}  ─▶  {"inputs": {"clip_ratio": 0.8}, "rotation": {"seed": 3}}

`bits`, `steps`, `kv_bits` and `kv_steps` are left for `spikeconv.config.short`, which knows what they stand for.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from spikeconv.config.inputs import INPUTS

__all__ = ["PATHS", "SHORT_NAMES", "Tree", "merge", "nest", "overlay"]

Tree = dict[str, Any]

PATHS = {
    "weight_clip": "weights.clip",
    "damping": "weights.damping",
    "importance": "weights.importance",
    "residual": "weights.residual",
    "bias_correction": "weights.bias_correction",
    "codec": "inputs.codec",
    "count_range": "inputs.range",
    "clip_ratio": "inputs.clip_ratio",
    "count_scale": "inputs.scale",
    "step": "inputs.step",
    "dead_zone": "inputs.dead_zone",
    "layers": "inputs.layers",
    "integer_digits": "inputs.integer_digits",
    "time_steps": "inputs.time_steps",
    "k": "inputs.k",
    "alpha": "inputs.alpha",
    "reset": "inputs.reset",
    "salient_bits": "inputs.salient_bits",
    "low_share": "inputs.low_share",
    "salient_mode": "inputs.mode",
    "seed": "rotation.seed",
    "temporal_code": "code.kind",
    "slots": "code.slots",
    "slot_overflow": "code.overflow",
    "kv_range": "kv.range",
    "kv_group": "kv.group",
    "kv_low_share": "kv.low_share",
    "kv_code": "kv.code.kind",
    "kv_slots": "kv.code.slots",
}
"""The short names of some settings, which are those of the command line's options."""

SHORT_NAMES = ("bits", "steps", "kv_bits", "kv_steps", *PATHS)

KINDS = {"rotation": "kind", "code": "kind", "kv.code": "kind", "weights": "method"}
"""Settings that a single name stands for: `rotation: quarot` is `rotation.kind: quarot`."""

OPTIONAL = ("kv", "kv.low_share", "inputs.clip", "inputs.step", "code.slots", "kv.code.slots")
"""Settings that `none` turns off."""


def nest(values: Mapping[Any, Any], prefix: str = "") -> Tree:
    """A tree of settings in which every key is the name of one level; of two values for one setting the later stays.

    Raises:
        ValueError: a key is no text, or a number has too many digits.
    """
    tree: Tree = {}
    for key, value in values.items():
        if not isinstance(key, str) or not key:
            raise ValueError(f"{prefix or 'the settings'}: a name of a setting was expected, not {key!r}")
        path = key if prefix else PATHS.get(key, key)
        above = f"{prefix}." if prefix else ""
        if above + path in KINDS and isinstance(value, str):
            path += f".{KINDS[above + path]}"
        full = above + path
        if full in OPTIONAL and value == "none":
            value = None
        if any(isinstance(each, int) and each.bit_length() > 64 for each in [value, *_items(value)]):
            raise ValueError(f"{full}: a number of fewer digits was expected")  # Python cannot even write them
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if isinstance(value, Mapping):
            value = nest(value, full)
        for part in reversed(path.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def merge(base: Tree, over: Tree) -> Tree:
    """A tree with the settings of `over`, and those of `base` where it says nothing."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def overlay(base: Tree, over: Tree) -> Tree:
    """`merge`, but of the inputs nothing is kept that belongs to another codec or count scale than `over` names."""
    inputs, new = base.get("inputs"), over.get("inputs")
    if isinstance(inputs, dict) and isinstance(new, dict):
        kept: Any = inputs.keys()
        if isinstance(codec := new.get("codec"), str) and codec != inputs.get("codec", "count"):
            kept = INPUTS[codec].model_fields if codec in INPUTS else ()
        if new.get("scale", inputs.get("scale", "max")) != inputs.get("scale", "max"):
            kept = [key for key in kept if key not in ("step", "clip_ratio")]
        base = {**base, "inputs": {key: value for key, value in inputs.items() if key in kept}}
    return merge(base, over)
