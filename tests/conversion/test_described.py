"""A plan says every setting that is not the default, and what is found on which text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spikeconv.cli.app import app


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_settings_and_texts_are_said(
    command: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 40, encoding="utf-8")
    calibrated: tuple[Any, ...] = ("--calibration", text, "--calibration-tokens", 128, "--calibration-seed", 7)
    clipped = "--clip-quantile", 0.25, "--clip-roles", "q,k,v", "--clip-text", text, "--clip-tokens", 512
    read = f"on 128 tokens of {text}, seed 7"
    for number, (options, words) in enumerate(
        (
            ((), ()),
            (("--seed", 9, "--clip-ratio", 0.8), ("all: inputs.clip_ratio=0.8, rotation.seed=9",)),
            (("--rotation", "none", "--weight-clip", "none"), ("rotation.kind=none", "weights.clip=none")),
            (("--count-scale", "rms", "--step", 0.1), ("inputs.scale=rms", "inputs.step=0.1")),
            (clipped, ("q, k, v: inputs.clip.mode=relu, inputs.clip.quantile=0.25", f"found on 512 tokens of {text}")),
            (("--balance", "sqrt", *calibrated), ("all: balance=sqrt", f"calibration: balance, {read}")),
            (("--weights", "gptq", "--damping", 0.3, *calibrated), ("weights.method=gptq, weights.damping=0.3", read)),
            (
                ("--codec", "gif", "--low-share", 0.8, *calibrated),
                ("inputs.low_share=0.8", read),
            ),
            (("--kv-bits", 4, "--kv-range", "asymmetric"), ("keys and values: kv.bits=4, kv.range=asymmetric",)),
            (("--temporal-code", "binary", "--override", "down:bits=6-1.58"), ("down: weights.bits=6", "binary")),
        )
    ):
        arguments = [command, str(tiny_checkpoint("llama")), "-o", str(tmp_path / f"{command}{number}")]
        result = CliRunner().invoke(app, [*arguments, *map(str, options)])
        assert result.exit_code == 0, result.output
        shown = " ".join(result.stdout.split())
        assert all(word in shown for word in words), (options, shown)
        if not options:
            assert "=" not in shown.replace(str(tmp_path), "").replace("T'=", ""), shown
        assert ("To convert" in shown, "Converted" in shown) == (command == "plan", command == "convert")
