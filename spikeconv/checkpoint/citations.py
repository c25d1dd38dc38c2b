"""BibTeX of what a conversion uses: entries of `configs/citations.bib`, which docs/citing.md shows too."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from spikeconv.sources.presets import configs_folder

__all__ = ["citations"]

CODECS = {
    "count": "sdllm2026",
    "multihead": "spikerwkv2025",
    "repetition": "spikerwkv2025",
    "gif": "spikellm2024",
    "elastic": "spikelm2024",
    "lif": "spikelm2024",
}
METHODS = {"gptq": "gptq2022", "gptaq": "gptaq2025", "qronos": "qronos2025", "smoothquant": "smoothquant2022"}
FAMILIES = {"spikegpt": "spikegpt2024", "rwkv": "rwkv2023"}


def citations(settings: Mapping[str, Any], family: str) -> list[str]:
    """BibTeX entries of the methods in a conversion.

    Args:
        settings: as in a record's `config`.
        family: the model's `model_type`.
    """
    text = (configs_folder() / "citations.bib").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^(?=@\w+{(\w+),)(.*?^}$)", text, re.MULTILINE | re.DOTALL))
    return [entries[name] for name in dict.fromkeys(_used(settings, family)) if name is not None]


def _used(settings: Mapping[str, Any], family: str) -> Iterator[str | None]:
    kind = settings["rotation"]["kind"]
    yield CODECS.get(settings["inputs"]["codec"])
    yield "sdllm2026" if kind == "gamma-sqp" else None
    yield None if kind == "none" else "quarot2024"
    yield METHODS.get(settings["weights"]["method"])
    yield METHODS.get(settings["balance"])
    yield FAMILIES.get(family)
