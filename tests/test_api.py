"""The Python face: the README's example as it stands, and that each function does what its command does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import spikeconv
from spikeconv.cli.app import main
from spikeconv.nn import spike_linears
from spikeconv.ops.native import load

Fixture = Callable[..., Any]
README = Path(__file__).parent.parent / "README.md"
Q, K = (f"model.layers.0.self_attn.{part}_proj" for part in "qk")


def float_model(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


def test_the_readme_runs(tiny_checkpoint: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README.read_text(encoding="utf-8").split("### In Python")[1]
    (example,) = re.findall(r"```python\n(.*?)```", section.split("\n### ")[0], re.DOTALL)
    assert '"smollm2-135m"' in example
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace('"smollm2-135m"', repr(str(tiny_checkpoint("llama")))), names)
    assert names["spikes"].train(names["layer"]).shape == (8, 1, 16, 72)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spiking"]


def test_importing_it_imports_nothing_else() -> None:
    """Nor does the command line before it has work to do, so that its help is there at once."""
    for module, heavy in (
        ("spikeconv", {"torch", "transformers", "pydantic"}),
        ("spikeconv.cli.app", {"torch", "transformers"}),
    ):
        code = f"import {module}, sys; print(sorted({heavy!r} & sys.modules.keys()))"
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert run.stdout == "[]\n", module
    assert all(callable(getattr(spikeconv, name)) for name in spikeconv.__all__ if name != "__version__")


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"bits": "6-1.58", "kv_bits": 4, "seed": 5}, "--bits 6-1.58 --kv-bits 4 --seed 5"),
    ({"inputs": {"clip_ratio": 0.95}, "rotation": "quarot"}, "--clip-ratio 0.95 --rotation quarot"),
    ({"skip": "q", "steps": 16, "dtype": torch.bfloat16}, "--skip q --steps 16 --dtype bfloat16"),
    ({"overrides": {"down": {"bits": "8-8"}}, "scheme": "sdllm-4-1"}, "--override down:bits=8-8 --scheme sdllm-4-1"),
    (
        {"clip_quantile": 0.6, "clip_mode": "shifted", "clip_tokens": 64},
        "--clip-quantile 0.6 --clip-mode shifted --clip-tokens 64",
    ),
]


@pytest.mark.parametrize(("settings", "words"), CALLS)
def test_convert_is_the_command(
    settings: dict[str, Any],
    words: str,
    tiny_checkpoint: Fixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logits_of: Fixture,
) -> None:
    load("cpu")  # from the real cache folder, whose note of the last checkpoint is the user's
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    options = words.split()
    if "clip_quantile" in settings:
        text = tmp_path / "text.txt"
        text.write_text("What the calibration reads is a text of more than sixty-four characters, surely.")
        settings, options = {**settings, "clip_text": text}, [*options, "--clip-text", str(text)]
    source = tiny_checkpoint("llama")
    monkeypatch.setattr(sys, "argv", ["spikeconv", "convert", str(source), "-o", str(tmp_path / "cli"), "-q", *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    summary = spikeconv.convert(source, tmp_path / "api", **settings)
    assert summary.output == str(tmp_path / "api")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "cli" / file).read_bytes() == (tmp_path / "api" / file).read_bytes(), file
    command = json.loads((tmp_path / "api" / "spikeconv.json").read_text())["command"]
    assert command.startswith(f"spikeconv.convert({str(source)!r}, {str(tmp_path / 'api')!r}, ")
    assert torch.equal(logits_of(spikeconv.convert(source, **settings)), logits_of(tmp_path / "cli"))


def test_a_model_in_memory(tiny_checkpoint: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    source = tiny_checkpoint("qwen2")
    model = float_model(source)
    expected = logits_of(model)
    found = spikeconv.convert(model, bits="8-8")
    assert torch.equal(logits_of(model), expected) and not spike_linears(model)
    assert spikeconv.verify(found).clean
    tokenizer = AutoTokenizer.from_pretrained(source)
    spikeconv.convert(model, tmp_path / "out", bits="8-8", tokenizer=tokenizer)
    assert torch.equal(logits_of(spikeconv.load(tmp_path / "out")), logits_of(found))
    record = json.loads((tmp_path / "out" / "spikeconv.json").read_text())
    assert record["source"]["path"] is None
    assert record["source"]["tensors"].keys() == dict(model.named_parameters()).keys()
    assert "in memory" in (tmp_path / "out" / "README.md").read_text()
    result = spikeconv.verify(tmp_path / "out")
    assert result.clean and "in memory" in result.notes[0]
    text = tmp_path / "text"
    text.write_text("A text of more than enough characters to calibrate a threshold or two on it.")
    clipped = spikeconv.convert(model, clip_quantile=0.5, clip_text=text, clip_tokens=32, tokenizer=tokenizer)
    ours = spike_linears(clipped)[Q].state_dict()["input_threshold"]
    theirs = spikeconv.convert(source, clip_quantile=0.5, clip_text=text, clip_tokens=32)
    assert torch.equal(ours, spike_linears(theirs)[Q].state_dict()["input_threshold"])
    assert torch.equal(logits_of(model), expected)


def test_load(tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    path = converted("llama")
    model = spikeconv.load(str(path), execution="events")
    assert not model.training and {linear.execution for linear in spike_linears(model).values()} == {"events"}
    assert torch.equal(logits_of(model), logits_of(path))
    assert spikeconv.load(path, dtype=torch.bfloat16).dtype == torch.bfloat16
    for wrong, words in ((tiny_checkpoint("llama"), "not converted"), (tmp_path / "nothing", "nothing")):
        with pytest.raises(spikeconv.SpikeconvError, match=words):
            spikeconv.load(wrong)


def test_verify(converted: Fixture, tiny_checkpoint: Fixture) -> None:
    path = converted("llama")
    of_path, of_model = spikeconv.verify(path, tokens=8), spikeconv.verify(spikeconv.load(path), tokens=8)
    assert of_path == of_model and of_path.clean and of_path.source_reader == "transformers"
    assert spikeconv.verify(path, source=False, text="abc").tokens == 3
    for tokens in (0, -1, "8"):
        with pytest.raises(spikeconv.SpikeconvError, match="tokens must be"):
            spikeconv.verify(path, tokens=tokens)
    with pytest.raises(spikeconv.SpikeconvError, match="not converted"):
        spikeconv.verify(float_model(tiny_checkpoint("llama")))


def test_a_changed_model_is_still_verified(converted: Fixture) -> None:
    model = spikeconv.load(converted("llama"))
    spikeconv.set_steps(model, 32)
    assert spikeconv.verify(model, tokens=8).clean
    model(torch.arange(9)[None]).logits.sum().backward()  # it still trains
    assert model.model.norm.weight.grad is not None
    model.model.norm.weight.data[0] += 1
    assert spikeconv.verify(model, tokens=8).different_tensors == ["model.norm.weight"]


def test_settings_are_told_wrong(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = tiny_checkpoint("llama")
    for settings, words in (
        ({"bitz": "4-1.58"}, "Did you mean bits"),
        ({"inputs": {"clip_ration": 0.9}}, "Did you mean inputs.clip_ratio"),
        ({"clip_quantil": 0.5}, "Did you mean clip_quantile"),
        ({"clip_mode": "hard"}, "hard"),
        ({"dtype": "int3"}, "int3"),
        ({"overrides": "down"}, "overrides"),
    ):
        with pytest.raises(spikeconv.SpikeconvError, match=words):
            spikeconv.convert(source, tmp_path / "out", **settings)
    for model in (torch.nn.Linear(3, 3), None):
        with pytest.raises(spikeconv.SpikeconvError, match="cannot be converted; give a preset"):
            spikeconv.convert(model)  # type: ignore[call-overload]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(spikeconv.SpikeconvError, match="not empty"):
        spikeconv.convert(source, tmp_path / "out")
    with pytest.raises(spikeconv.SpikeconvError, match="no preset"):
        spikeconv.convert("smolm2-135m")
