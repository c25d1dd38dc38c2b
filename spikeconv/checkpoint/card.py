"""The model card of a converted checkpoint."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

__all__ = ["model_card"]


def model_card(name: str, record: dict[str, Any], auto: str = "AutoModelForCausalLM") -> str:
    """`README.md` of a checkpoint, from its record (see `make_record`) and the class that loads it."""
    settings = "\n".join(f"| `{path}` | {value} |" for path, value in _rows(record["config"]))
    skipped = "\n".join(f"* `{module}`: {reason}" for module, reason in record["skipped"].items())
    return f"""---
library_name: transformers
tags: [spikeconv, spiking-neural-network, neuromorphic]
---
# {name}

A spike-driven language model, converted from {_origin(record["source"]["path"])} without training by
spikeconv {record["versions"]["spikeconv"]}:

    {_command(record["command"], record["source"]["path"])}

{len(record["layers"])} linears accumulate signed integer weight columns by spike counts
({record["bits_per_weight"]:.2f} bits per converted weight, scales included). Not converted:

{skipped}

| setting | value |
|---|---|
{settings}

## Use

```python
import spikeconv  # registers the format with transformers
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

`spikeconv verify`, `spikeconv eval` and `spikeconv report-firing-rate` check and measure it. Per-layer settings,
versions and file hashes are in `spikeconv.json`.
"""


def _origin(path: str | None) -> str:
    """The source's hub id or last name: cards are published, and where it lay on a disk is nobody's business."""
    if path is None:
        return "a model in memory"
    return f"`{_hub_id(path) or PurePath(path).name or path}`"


def _hub_id(path: str) -> str | None:
    """The id of a model in the hub's cache folder, or None."""
    hub = next((part for part in PurePath(path).parts if part.startswith("models--")), None)
    return hub and hub.removeprefix("models--").replace("--", "/")


WORDS = re.compile(r"""'[^']*'|"[^"]*"|[^\s'"=,()]+""")


def _command(command: str, path: str | None) -> str:
    """A command line, or a call, with last names instead of paths; the source's hub id stays."""
    hub = path and _hub_id(path)

    def named(match: re.Match[str]) -> str:
        word = match[0].strip("'\"")
        return match[0] if "/" not in word or word == hub else match[0].replace(word, PurePath(word).name)

    return WORDS.sub(named, command)


def _rows(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting under the path by which `--set` names it, and overrides by their pattern."""
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _rows(value, f"{path}.")
        elif name == "overrides" and not prefix:
            for override in value:
                yield from _rows(override["settings"], f"{override['pattern']}: ")
        elif value not in ([], ()):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield path, "none" if value is None else text.replace("|", "\\|")
