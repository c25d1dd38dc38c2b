"""What runs another way than it should is said, by `generate`, `doctor` and `bench`."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv import cache
from spikeconv.errors import SpikeconvWarning
from spikeconv.integrations import fallbacks
from spikeconv.ops import native

Run = Callable[..., Any]


def test_nothing_falls_back(spikeconv: Run, converted: Callable[..., Path]) -> None:
    result = spikeconv("generate", converted("llama"), "-n", 2, "--json")
    assert result.json["fallbacks"] == [] and "note" not in result.err
    assert spikeconv("doctor", "--json").json["fallbacks"] == []
    result = spikeconv("doctor", converted("llama"))
    assert result.out.endswith("fallbacks\n  none\n")


@pytest.mark.filterwarnings("default")  # as outside of the tests
def test_everything_that_falls_back_is_told_once(
    spikeconv: Run, converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "Decoding runs [another] way."
    monkeypatch.setattr(fallbacks, "_fallbacks", lambda model: [fallbacks._Fallback(sentence, False)])
    model = converted("llama")
    told = spikeconv("generate", model, "-n", 2, "--json")
    assert told.json["fallbacks"] == [sentence] and told.err.count(sentence) == 1
    for command in ("generate", "perplexity"):  # where nothing lists them, the warning of loading is shown
        text = () if command == "generate" else ("--text", os.devnull)
        quiet = spikeconv(command, model, *text, "-q")
        assert quiet.err.count(sentence) == 1 and f"warning: {sentence}\n" in quiet.err
    assert spikeconv("doctor", model, "--json").json["fallbacks"] == [sentence]
    assert sentence in spikeconv("doctor", model).out


def test_a_device_without_its_kernels(spikeconv: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda device: native.Backend("reference", "no [compiler]"))
    expected = "On cpu the reference stands in for the native kernels: no [compiler]."
    assert spikeconv("doctor", "--json").json["fallbacks"][0] == expected
    assert expected in spikeconv("doctor").out


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines_of_ours(
    spikeconv: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spikeconv.cli import models

    presets = models.model_presets

    def warning() -> Any:
        warnings.warn("slow [v1]", SpikeconvWarning, stacklevel=1)
        return presets()

    monkeypatch.setattr(models, "model_presets", warning)
    shown = warnings.showwarning
    result = spikeconv("models", "--json")
    assert result.json["presets"] and result.err == "warning: slow [v1]\n"
    assert warnings.showwarning is shown


def test_kernels_are_built_where_one_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    assert cache.writable_dir() == tmp_path / "cache"
    monkeypatch.setenv("SPIKECONV_CACHE", "/dev/null/cache")
    monkeypatch.delenv("SPIKECONV_NATIVE", raising=False)
    monkeypatch.setattr(cache, "_temporary", lambda: tmp_path / "private")
    monkeypatch.setattr(native, "_installed", lambda device: tmp_path / "nowhere")
    built: list[Path] = []

    def build(device: str, library: Path) -> None:
        built.append(library)
        raise OSError("enough")

    monkeypatch.setattr(native, "_build", build)
    assert native._load.__wrapped__("cpu") == native.Backend("reference", "enough")
    assert built[0].is_relative_to(tmp_path / "private/kernels")
