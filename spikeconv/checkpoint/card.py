"""The model card of a converted checkpoint: `README.md` with the hub's metadata in front.

It ends in a line with its own SHA-256: a card that somebody has edited no longer fits, and is left as it is.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import yaml

from spikeconv.checkpoint.citations import citations
from spikeconv.checkpoint.origin import hub_id, source_name

__all__ = ["CARD", "is_ours", "model_card", "public_command"]

CARD = "README.md"
PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModel": "feature-extraction",
}
SEAL = re.compile(r"<!-- spikeconv renews this card while its text is unchanged \(sha256 ([0-9a-f]{64})\) -->\n\Z")


def model_card(
    name: str, record: dict[str, Any], auto: str = "AutoModelForCausalLM", measured: str = "", loaded_as: str = ""
) -> str:
    """`README.md` of a checkpoint.

    Args:
        name: of the checkpoint.
        record: its record, see `make_record`.
        auto: the class of transformers that loads it.
        measured: a section on what was measured, in Markdown.
        loaded_as: what it is loaded by, where that is not its name: the id of a repository.
    """
    settings = "\n".join(f"| `{path}` | {value} |" for path, value in _rows(record["config"]))
    skipped = "\n".join(f"* `{module}`: {reason}" for module, reason in record["skipped"].items())
    entries = "\n".join(citations(record["config"], record["family"]))
    text = f"""---
{_metadata(record, auto)}---
# {name}

A spike-driven language model, converted from {_origin(record["source"]["path"])} without training by
spikeconv {record["versions"]["spikeconv"]}:

    {public_command(record["command"], record["source"]["path"])}

{len(record["layers"])} linears accumulate signed integer weight columns by spike counts
({record["bits_per_weight"]:.2f} bits per converted weight, scales included). Not converted:

{skipped}

| setting | value |
|---|---|
{settings}

{measured}## Use

```python
import spikeconv  # registers the format with transformers
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{loaded_as or name}")
tokenizer = AutoTokenizer.from_pretrained("{loaded_as or name}")
```

`spikeconv verify`, `spikeconv eval` and `spikeconv report-firing-rate` check and measure it. Per-layer settings,
versions and file hashes are in `spikeconv.json`.

## Licence

{_licence(record)}
{f"{chr(10)}## Citation{chr(10)}{chr(10)}```bibtex{chr(10)}{entries}{chr(10)}```{chr(10)}" if entries else ""}
"""
    return text + _seal(text)


def is_ours(text: str) -> bool:
    """Whether a card is as it was written."""
    seal = SEAL.search(text)
    return seal is not None and hashlib.sha256(text[: seal.start()].encode()).hexdigest() == seal[1]


def _seal(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"<!-- spikeconv renews this card while its text is unchanged (sha256 {digest}) -->\n"


def _metadata(record: dict[str, Any], auto: str) -> str:
    """The head of the card, as the hub reads it."""
    path, card = record["source"]["path"], record["source"].get("card") or {}
    base = None if path is None else hub_id(path)
    values: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": PIPELINES.get(auto), **card}
    if base is not None:
        values |= {"base_model": base, "base_model_relation": "quantized"}
    values["tags"] = ["spikeconv", "spiking-neural-network", "neuromorphic"]
    return yaml.safe_dump({name: value for name, value in values.items() if value is not None}, sort_keys=False)


def _licence(record: dict[str, Any]) -> str:
    card = record["source"].get("card") or {}
    if "license" not in card:
        return "Not known: the source says none. What holds for its weights holds for these."
    name = f" ({card['license_name']})" if "license_name" in card else ""
    return f"That of the source: {card['license']}{name}."


def _origin(path: str | None) -> str:
    """The source by the name that can be published."""
    return source_name(path) if path is None else f"`{source_name(path)}`"


WORDS = re.compile(r"""'[^']*'|"[^"]*"|[^\s'"=,()]+""")


def public_command(command: str, path: str | None) -> str:
    """A command line, or a call, with last names instead of paths; the source's hub id stays."""
    hub = path and hub_id(path)

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
