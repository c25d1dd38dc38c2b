"""`spikeconv plan`: what a conversion will take, from a configuration alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.sources import outline

Run = Callable[..., Any]

# As the models' pages on the hub count them.
PARAMETERS = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
    "minilm-l6": 22_713_216,
    "rwkv-4-169m": 169_342_464,
    "rwkv-6-1b6": 1_599_873_024,
    "rwkv-7-1.5b": 1_527_404_544,
}
QUICK = "--quiet", "--json"


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was fetched, the hub is away, and trying is over at once."""
    monkeypatch.setattr(outline, "cached_wheel", lambda preset: None)
    monkeypatch.setattr(outline, "cached_snapshot", lambda model: None)
    monkeypatch.setattr("spikeconv.conversion.estimate.SECONDS", 0.0)
    monkeypatch.setattr("spikeconv.conversion.estimate.SAMPLE", 1 << 12)


def test_every_preset_without_weights(spikeconv: Run, tmp_path: Path) -> None:
    assert spikeconv("models", "--json").json["presets"].keys() == PARAMETERS.keys()
    for name, parameters in PARAMETERS.items():
        result = spikeconv("plan", name, "-o", tmp_path / "out", *QUICK)
        assert result.code == (0 if result.json["output"]["problem"] is None else 2)
        size = 4 if name in ("rwkv-4-169m", "rwkv-6-1b6", "minilm-l6") else 2
        assert result.json["estimate"]["source_bytes"] == size * parameters, name
        token = result.json["estimate"]["per_token"]
        weights = sum(linear["in_features"] * linear["out_features"] for linear in result.json["linears"])
        assert token["macs"] == weights == result.json["weights"] < parameters
        assert token["accumulations"] == pytest.approx(token["spikes_per_input"] * weights)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])


def test_table(spikeconv: Run, tmp_path: Path) -> None:
    printed = spikeconv("plan", "smollm2-135m", "-o", tmp_path / "out", "--scheme", "ramp-5").out
    for word in ("gate", "5-1.58", "36·16", "lm_head", "Memory", "Time", "24 slots", "Gaussian", "a text"):
        assert word in printed


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("llama", ()),
        ("qwen2", ("--bits", "6-1", "--skip", "down", "--max-shard-size", "20KB")),
        ("qwen3", ("--bits", "16-1.58", "--dtype", "bfloat16")),
        ("rwkv6", ("--bits", "4-1.58")),
    ],
)
def test_sizes_are_those_that_are_written(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, model: str, settings: tuple[str, ...]
) -> None:
    output = tmp_path / "out"
    arguments = (tiny_checkpoint(model), "-o", output, *settings, *QUICK)
    planned = spikeconv("plan", *arguments).json
    assert not output.exists() and spikeconv("convert", "--dry-run", *arguments).json["linears"] == planned["linears"]
    assert spikeconv("convert", *arguments).code == 0
    files = list(output.glob("*.safetensors"))
    assert planned["estimate"]["shards"] == len(files)
    assert planned["estimate"]["output_bytes"] == sum(file.stat().st_size for file in files)
    assert planned["estimate"]["source_bytes"] == sum(f.stat().st_size for f in arguments[0].glob("*.safetensors"))


def test_what_is_described_only(spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """A config.json, or a folder with nothing else, plans as the model itself does; deep ones are not believed."""
    source, folder = tiny_checkpoint("llama"), tmp_path / "folder"
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    whole = spikeconv("plan", source, "-o", tmp_path / "out", *QUICK).json
    for described in (folder, folder / "config.json"):
        found = spikeconv("plan", described, "-o", tmp_path / "out", *QUICK).json
        assert found["linears"] == whole["linears"]
        assert found["estimate"]["output_bytes"] == whole["estimate"]["output_bytes"]
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**6}))
    refused = spikeconv("plan", folder, "-o", tmp_path / "out", *QUICK)
    assert refused.code == 2 and "1000000 layers" in refused.err and "Traceback" not in refused.err


def test_the_output_place_is_checked(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is printed all the same."""
    source, output = tiny_checkpoint("llama"), tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    result = spikeconv("plan", source, "-o", output, *QUICK)
    assert result.code == 2 and "not empty" in result.err and len(result.json["linears"]) == 14
    assert "not empty" in result.json["output"]["problem"]
    monkeypatch.setattr("spikeconv.conversion.foresee.shutil.disk_usage", lambda path: Usage(1, 1, 10))
    result = spikeconv("plan", source, "-o", tmp_path / "other", *QUICK)
    assert result.code == 2 and "only 10 are free" in result.err


class Usage(tuple[int, int, int]):
    def __new__(cls, *values: int) -> "Usage":
        return super().__new__(cls, values)

    @property
    def free(self) -> int:
        return self[2]


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_memory_that_is_not_enough(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, command: str
) -> None:
    arguments = (command, tiny_checkpoint("llama"), "-o", tmp_path / "out")
    result = spikeconv(*arguments, "--max-memory", "1MB", "-q")
    assert result.code == 2 and "--max-memory is 1 MB, but" in result.err and not (tmp_path / "out").exists()
    result = spikeconv(*arguments, "--max-memory", "lots", "-q")
    assert result.code == 2 and "--max-memory is 'lots'" in result.err
    result = spikeconv(*arguments, "--max-memory", "100GB", "--weights", "gptq", "-q")
    assert result.code == 2 and "calibrated" in result.err
