"""The card is a table of settings by the paths that the command line takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spikeconv.checkpoint.card import model_card
from spikeconv.checkpoint.citations import citations
from spikeconv.checkpoint.format import RECORD
from spikeconv.config import SpikeConfig
from spikeconv.sources.presets import configs_folder

Fixture = Callable[..., Any]


def test_settings_read_well(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    overrides = [{"pattern": "down", "settings": {"bits": "6-1.58"}}]
    run_convert(tiny_checkpoint(), tmp_path / "[my] model", kv_bits=4, skip=["o", "q"], overrides=overrides)
    card = (tmp_path / "[my] model/README.md").read_text(encoding="utf-8")
    rows = dict(line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| `"))
    assert not [line for line in rows.values() if "{" in line or "[" in line]
    assert rows["`weights.bits`"] == "4" and rows["`kv.bits`"] == "4" and rows["`inputs.clip`"] == "none"
    assert rows["`skip`"] == "o, q" and rows["`down: bits`"] == "6-1.58"
    assert "# [my] model" in card and '"[my] model"' in card
    # Each path is one that settings have: what the card says can be typed again.
    record = json.loads((tmp_path / "[my] model" / RECORD).read_text(encoding="utf-8"))
    paths = [path.strip("`") for path in rows if ":" not in path and path != "`skip`"]
    assert {path.split(".")[0] for path in paths} <= record["config"].keys()
    typed = {path: rows[f"`{path}`"] for path in paths if rows[f"`{path}`"] != "none"}
    again = SpikeConfig.parse({**typed, "skip": ["o", "q"], "overrides": overrides})
    assert again.model_dump(mode="json") == record["config"]


def test_citations_are_those_of_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs/citing.md").read_text(encoding="utf-8")
    held = (configs_folder() / "citations.bib").read_text(encoding="utf-8")
    assert held in docs
    for settings, family, expected in (
        ({"bits": "4-1.58", "weights": {"method": "gptq"}}, "llama", ["sdllm2026", "quarot2024", "gptq2022"]),
        ({"codec": "multihead", "rotation": "none"}, "rwkv", ["spikerwkv2025", "rwkv2023"]),
        ({"codec": "gif", "bits": "4-4", "rotation": "none"}, "qwen2", ["spikellm2024"]),
    ):
        found = citations(SpikeConfig.parse(settings).model_dump(mode="json"), family)
        assert [entry.split("{")[1].split(",")[0] for entry in found] == expected and all(e in held for e in found)


def test_names_the_source_without_its_folder(converted: Fixture) -> None:
    record = json.loads((converted() / RECORD).read_text(encoding="utf-8"))
    for path, name in (
        ("/home/somebody/models/Llama-2-7b.gguf", "`Llama-2-7b.gguf`"),
        ("/home/somebody/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899d", "`Qwen/Qwen3-0.6B`"),
        (None, "a model in memory"),
    ):
        card = model_card("spiking", {**record, "source": {**record["source"], "path": path}})
        assert f"converted from {name} without" in card and "somebody" not in card


def test_the_command_names_no_folder(converted: Fixture) -> None:
    """Cards are published: paths of the command line, or of a call in Python, are only shown with their last names."""
    record = json.loads((converted() / RECORD).read_text(encoding="utf-8"))
    cached = "/home/me/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899d"
    for path, command, shown in (
        ("/home/me/llama", "spikeconv convert /home/me/llama -o ../me/out --clip-text=~/me/a.txt", "llama -o out"),
        ("/home/me/my model", "spikeconv convert '/home/me/my model' -o out", "convert 'my model' -o out"),
        ("/home/me/llama", "spikeconv convert me/llama", "convert llama"),
        (cached, "spikeconv convert Qwen/Qwen3-0.6B --set a=b", "convert Qwen/Qwen3-0.6B --set a=b"),
        (None, 'spikeconv.convert(LlamaForCausalLM, "/home/me/out", bits="4-1.58")', '"out", bits="4-1.58")'),
    ):
        card = model_card("spiking", {**record, "source": {**record["source"], "path": path}, "command": command})
        assert shown in card and "/me" not in card and "me/" not in card
