"""Changes to files such as an attacker, a bad disk or a careless hand makes; each follows from its source of chance."""

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

__all__ = ["dump_json", "mutate_bytes", "mutate_json", "mutate_json_file", "mutate_tensors", "mutate_values"]

NASTY: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.0, 1e-320, 0.5),
    *(float("nan"), float("inf"), "", "x", "none", "float32", "1.58", "4-1.58", "../../outside.txt", "/etc/passwd"),
    *("~/.bashrc", "llama", "RwkvForCausalLM", "A" * 10**5, "\x00", "\ud800", "é", "torch.float8_e4m3fn"),
    *([], {}, [[]], [None], {"": {}}, [-1, 2**40], [1] * 1000),
    *({"quant_method": "spikeconv"}, {"rope_type": "yarn", "factor": 4.0}),
]


FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -3e38, float("inf"), float("-inf"), float("nan"))


def mutate_json(chance: random.Random, value: Any) -> Any:
    """One or a few changes somewhere in it."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place, key = _somewhere(chance, value)
        if place is None:
            return copy.deepcopy(chance.choice(NASTY))
        what = chance.random()
        if what < 0.65:
            place[key] = copy.deepcopy(chance.choice(NASTY))
        elif what < 0.8:
            del place[key]
        elif what < 0.9 and isinstance(place, dict):
            place[f"{key}{chance.choice(('', '_', 's', ' '))}"] = place.pop(key)
        else:
            other, name = _somewhere(chance, value)
            place[key] = copy.deepcopy(other[name]) if other is not None else None
    return value


def _somewhere(chance: random.Random, value: Any) -> tuple[Any, Any]:
    here: list[tuple[Any, Any]] = []

    def walk(each: Any) -> None:
        items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, inner in items:
            here.append((each, key))
            walk(inner)

    walk(value)
    return chance.choice(here) if here else (None, None)


def dump_json(chance: random.Random, value: Any) -> bytes:
    """JSON, now and then no longer quite."""
    text = json.dumps(value, ensure_ascii=True)
    what = chance.random()
    if what < 0.03:
        text = "[" * 10**5 + text
    elif what < 0.06:
        text = text[: chance.randrange(len(text) + 1)]
    elif what < 0.09:
        text = text.replace("{", '{"architectures": 1, ', 1)
    return text.encode() if what < 0.95 else mutate_bytes(chance, text.encode())


def mutate_bytes(chance: random.Random, data: bytes, first: int | None = None) -> bytes:
    """Flips, cuts, repeats and insertions; mostly in the first bytes if so many are named."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        size = len(found) if first is None or chance.random() < 0.2 else min(first, len(found))
        at, what = chance.randrange(size + 1), chance.random()
        if what < 0.5 and at < len(found):
            found[at] = chance.choice((found[at] ^ 1 << chance.randrange(8), chance.randrange(256), 0, 255))
        elif what < 0.65:
            found[at : at + 8] = chance.choice((2**63 - 1, 2**32, 2**20, 0, 2**64 - 1)).to_bytes(8, "little")
        elif what < 0.75:
            found = found[:at]
        elif what < 0.85:
            found[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(32)))
        elif what < 0.95:
            end = at + chance.randrange(64)
            found[at:at] = found[at:end]
        else:
            del found[at : at + chance.randrange(64)]
    return bytes(found)


def mutate_header(chance: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(mutate_json(chance, json.loads(data[8 : 8 + length]))).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def mutate_tensors(chance: random.Random, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(mutate_header(chance, data) if chance.random() < 0.6 else mutate_bytes(chance, data, 2000))


def mutate_json_file(chance: random.Random, path: Path) -> None:
    path.write_bytes(dump_json(chance, mutate_json(chance, json.loads(path.read_text()))))


def mutate_values(chance: random.Random, path: Path) -> None:
    """Other values in some tensors of a safetensors file, whose header stays."""
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = {name: entry for name, entry in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}
    for name in chance.sample(sorted(header), chance.randrange(1, 8)):
        begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
        if header[name]["dtype"] == "F32" and chance.random() < 0.7:
            values = [chance.choice(FLOATS) for _ in range((end - begin) // 4)]
            data[begin:end] = struct.pack(f"<{len(values)}f", *values)
        else:
            data[begin:end] = chance.choice(
                (chance.randbytes(end - begin), bytes(end - begin), b"\xff" * (end - begin))
            )
    path.write_bytes(data)
