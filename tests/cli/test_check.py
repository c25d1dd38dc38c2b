"""`spikeconv check`: what it prints, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fixture = Callable[..., Any]


def test_the_command(tiny_checkpoint: Fixture, run_convert: Fixture, spikeconv: Fixture, tmp_path: Path) -> None:
    run_convert(tiny_checkpoint("llama"), tmp_path / "out")
    assert spikeconv("check", tmp_path / "out").code == 0
    data = bytearray((tmp_path / "out/model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "out/model.safetensors").write_bytes(data)
    result = spikeconv("check", tmp_path / "out")
    assert result.code == 1 and "DAMAGED" in result.out and "has other bytes" in result.out
    result = spikeconv("check", tmp_path / "out", "--repair", "--json")
    assert result.code == 0 and json.loads(result.out)["repaired"] == ["model.safetensors"]
    assert spikeconv("check", tmp_path).code == 2
