"""A checkpoint that is spread over memory and disk gives what its modules give in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint, load_source
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.integrations.engine import modules_only
from spikeconv.placing import parse_limits

Fixture = Callable[..., Any]


def test_a_checkpoint_larger_than_memory(
    spikeconv: Fixture, converted: Fixture, tiny_checkpoint: Fixture, tmp_path: Path
) -> None:
    path, text = converted("llama", bits="4-1.58"), tmp_path / "text.txt"
    text.write_text("some words, and some more of them. " * 20)
    whole = load_checkpoint(path, device="cpu")
    with modules_only(whole.model):
        wanted = perplexity(whole, text.read_text(), window=50)
    of_float = perplexity(load_source(path, device="cpu"), text.read_text(), window=50)
    write_gguf(tiny_checkpoint("llama"), gguf := tmp_path / "tiny.gguf")
    for limit in ("1B", "80KB"):  # all on the disk; some in memory
        spread = "--memory-limits", f"cpu={limit}", "--offload-folder", tmp_path
        found = spikeconv(
            "perplexity", path, "--text", text, "--window", 50, "--device", "cpu", "--json", "-q", "--baseline", *spread
        )
        assert found.code == 0, found.err
        assert (found.json["perplexity"], found.json["device"]) == (wanted.perplexity, "cpu")
        assert found.json["baseline"]["perplexity"] == of_float.perplexity
        said = spikeconv("generate", path, "-p", "some", "-n", 4, "--json", "-q", *spread)
        assert said.code == 0 and said.json["tokens"] == 4, said.err
    for words, sentence in (
        (("--memory-limits", "cpu=1GB", "--baseline", "--source", gguf), "tiny.gguf is read whole"),
        (("--offload-folder", tmp_path / "none"), "is no folder"),
        (("--memory-limits", "much"), "expected a size for each GPU"),
    ):
        refused = spikeconv("perplexity", path, "--text", text, "--window", 50, *words)
        assert refused.code == 2 and sentence in refused.err
    assert parse_limits("0=2KB, 11=1MB,cpu=3B") == {0: 2000, 11: 10**6, "cpu": 3}
    for wrong in ("cpu", "gpu=1GB", "cpu=1GB,cpu=2GB", "0=x", "-1=1GB", ""):
        with pytest.raises(SpikeconvError, match="--memory-limits"):
            parse_limits(wrong)
