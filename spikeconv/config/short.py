"""The short forms: `bits: 4-1.58` names a scheme, `steps` its T', `kv_bits` and `kv_steps` those of keys and values.

A scheme is named `W-S`: W weight bits, S bits of one spike. `4-1.58` is SDLLM's main setting: 4-bit weights and
ternary spikes (log2 3 = 1.58 bits) unfolded over T' = 8 virtual steps (SDLLM, sections 4.1 to 4.3).
"""

import re
from collections.abc import Mapping
from typing import Any

from spikeconv.config.base import FLOAT_BITS, shown
from spikeconv.config.paths import Tree, merge, nest
from spikeconv.config.weights import SIGNS

__all__ = ["count_bits", "expand", "parse_bits"]

NAME = re.compile(r"(1\.58|[0-9]{1,2})-(1\.58|16|[1-8])")
SPIKES = {"1.58": "ternary", "1": "binary"}
PLAIN = ("multihead", "repetition", "elastic", "lif")
"""Codecs with a width of their own; their papers leave weights float and rotate nothing."""


def expand(values: Mapping[Any, Any], base: Tree | None = None) -> Tree:
    """Settings as a tree (see `nest`) with nothing short left.

    Args:
        values: as written.
        base: what they will be laid over, expanded; it says which codec and spikes `bits` and `steps` are for.

    Raises:
        ValueError: a short form is impossible.
    """
    tree = nest(values)
    bits, steps, kv_bits, kv_steps = (tree.pop(key, None) for key in ("bits", "steps", "kv_bits", "kv_steps"))
    if bits is not None or steps is not None:
        inputs = {**_mapping(base, "inputs"), **_mapping(tree, "inputs")}
        tree = merge(_counts(bits, None if steps is None else _whole("steps", steps), inputs, tree), tree)
    if kv_bits in ("none", str(FLOAT_BITS), FLOAT_BITS):
        tree["kv"] = None
    elif kv_bits is not None:
        tree = merge(tree, {"kv": {"bits": kv_bits}})
    if kv_steps is not None:
        kv = {**_mapping(base, "kv"), **_mapping(tree, "kv")}
        spikes = "binary" if kv.get("range") == "asymmetric" else "ternary"
        tree = merge(tree, {"kv": {"bits": count_bits(spikes, _whole("kv_steps", kv_steps), "kv_steps")}})
    return tree


def _counts(bits: Any, steps: int | None, inputs: Tree, tree: Tree) -> Tree:
    """What `bits` and `steps` stand for with a codec."""
    codec = inputs.get("codec", "count")
    if steps is not None and codec in (*PLAIN, "gif"):
        raise ValueError("steps belong to codec=count; the other codecs have time_steps, gif salient_bits")
    if bits is None:
        spikes = inputs.get("spikes", "ternary")
        if codec != "count" or spikes not in ("ternary", "binary"):
            found = spikes if codec == "count" else codec
            raise ValueError(f"steps needs ternary or binary spikes, not {shown(found)}")
        return {"inputs": {"bits": count_bits(spikes, steps or 0)}}
    named = "codec" in _mapping(tree, "inputs")
    parsed = parse_bits(bits if isinstance(bits, str) else shown(bits), steps)
    if codec == "gif":
        if parsed["inputs"].get("spikes") != "integer":
            raise ValueError(f"codec=gif sends integers of 2 to 8 bits: its bits are as 4-4, not {shown(bits)}")
        return {"weights": parsed["weights"], "inputs": {"bits": parsed["inputs"]["bits"]}}
    if codec in PLAIN:
        own = "binary" if codec == "lif" else inputs.get("spikes", "ternary") if codec == "elastic" else "ternary"
        if parsed["inputs"].get("spikes") != own:
            sends, name = ("binary", "1") if own == "binary" else ("signed", "1.58")
            raise ValueError(f"codec={codec} sends {sends} spikes: its bits are W-{name}, not {shown(bits)}")
        return {"weights": parsed["weights"]}
    if named and codec in ("count", "float") and codec != parsed["inputs"]["codec"]:
        raise ValueError(f"bits={shown(bits)} is not codec={codec}")
    return parsed


def parse_bits(bits: str, steps: int | None = None) -> Tree:
    """Settings for a scheme name `W-S` and a number of virtual steps T'.

    S is 1.58 (ternary, T' = 2^(W-1) unless `steps`), 1 (binary, T' = 2^W - 1), 2 to 8 (integer counts) or 16 (float).
    With float weights (W = 16), and with weights of which only signs are kept (1: sign, 1.58: ternary), counts have 4
    bits unless `steps` says otherwise.

    Raises:
        ValueError: not a scheme name, or a T' that no count width gives.
    """
    match = NAME.fullmatch(bits)
    if not match:
        raise ValueError(f"bits must look like 4-1.58, 4-1, 4-4 or 16-16, not {bits[:40]!r}")
    spike = match[2]
    signs = {name: method for method, name in SIGNS.items()}
    weights: Tree = {"bits": 2, "method": signs[match[1]]} if match[1] in signs else {"bits": int(match[1])}
    weight_bits = FLOAT_BITS if match[1] in signs else int(match[1])
    if spike not in SPIKES:
        if steps is not None:
            raise ValueError(f"steps needs ternary (1.58) or binary (1) spikes, not {bits!r}")
        if spike == str(FLOAT_BITS):
            return {"weights": weights, "inputs": {"codec": "float"}}
        return {"weights": weights, "inputs": {"codec": "count", "spikes": "integer", "bits": int(spike)}}
    spikes = SPIKES[spike]
    if steps is not None:
        width = count_bits(spikes, steps)
    else:
        width = weight_bits if weight_bits != FLOAT_BITS else 4
        if not 2 <= width <= 8:
            raise ValueError(f"weights.bits must be 2 to 8, or 16 for float, not {weight_bits}")
    return {"weights": weights, "inputs": {"codec": "count", "spikes": spikes, "bits": width}}


def count_bits(spikes: str, steps: int, name: str = "steps") -> int:
    """The width of counts that T' virtual steps send.

    Raises:
        ValueError: there is none.
    """
    bits = (steps + 1).bit_length() - 1 if spikes == "binary" else steps.bit_length()
    reached = 2**bits - 1 if spikes == "binary" else 2 ** (bits - 1)
    if steps < 1 or not 2 <= bits <= 8 or reached != steps:
        choices = [2**b - 1 if spikes == "binary" else 2 ** (b - 1) for b in range(2, 9)]
        raise ValueError(f"{name} with {spikes} spikes must be one of {choices}, not {steps}")
    return bits


def _whole(name: str, value: Any) -> int:
    text = value if isinstance(value, str) else shown(value)
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueError(f"{name} must be a positive whole number, not {shown(value)}")
    return int(text)


def _mapping(tree: Tree | None, key: str) -> Tree:
    value = (tree or {}).get(key)
    return value if isinstance(value, dict) else {}
