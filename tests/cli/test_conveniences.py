"""What was computed is printed or kept, whatever is written for convenience afterwards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.cli import evaluate
from spikeconv.evaluate.results import EvaluationResult, TaskResult

Run = Callable[..., Any]


def test_convert_without_a_cache_folder(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKECONV_CACHE", "/dev/null/cache")
    result = spikeconv("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", "-q", "--json")
    assert result.code == 0 and result.json["converted"] == 14
    assert "warning: this checkpoint will not be the default" in result.err and "/dev/null/cache" in result.err
    assert (tmp_path / "out/spikeconv.json").is_file()


def test_report_that_cannot_be_saved(
    spikeconv: Run, converted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spikeconv.checkpoint import folder

    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder, "write_json", full)
    result = spikeconv("report-firing-rate", converted("llama"), "--tokens", 16, "--save", "--json", "-q")
    assert result.code == 0 and len(result.json["layers"]) == 14
    assert "warning: the shares of zeros are not noted" in result.err and "No space left" in result.err


def test_scores_that_cannot_be_saved(
    spikeconv: Run, converted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = EvaluationResult(
        (TaskResult("piqa", "acc", 0.5, None, 4, "validation", {"acc": 0.5}),), "offline", 2.0, 100, {"results": {}}
    )
    monkeypatch.setattr(evaluate, "evaluate_tasks", lambda *_, **__: scores)
    model = tmp_path / "model"
    shutil.copytree(converted("llama"), model)
    arguments = ("eval", model, "--tasks", "piqa", "--data", "offline", "-q")
    assert spikeconv(*arguments, "--json").json["output"] == str(model / "eval/piqa.json")
    shutil.rmtree(model / "eval")
    (model / "eval").write_text("in the way", encoding="utf-8")
    for output in ((), ("--output", "/dev/null/x.json")):
        result = spikeconv(*arguments, *output, "--json")
        assert result.code == 0 and result.json["tasks"]["piqa"]["value"] == 0.5 and result.json["output"] is None
        assert result.err.startswith("warning: the results are not in ") and result.err.count("\n") == 1
        result = spikeconv(*arguments, *output)
        assert result.code == 0 and "50.00" in result.out and "saved to" not in result.out


def test_a_baseline_is_not_lost_when_the_checkpoint_fails(
    spikeconv: Run, converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, text = tmp_path / "model", tmp_path / "text.txt"
    shutil.copytree(converted("llama"), model)
    (model / "model.safetensors").write_bytes(b"damaged")
    text.write_text("It was the best of times, it was the worst of times. " * 4, encoding="utf-8")
    result = spikeconv("perplexity", model, "--baseline", "--text", text, "--window", 32, "-q")
    assert result.code == 2 and result.out == ""
    measured, error = result.err.splitlines()
    assert json.loads(measured.removeprefix("baseline, measured before the failure: "))["perplexity"] > 0
    assert error.startswith("error: ")


def test_nobody_hears_the_progress(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of stderr leaves: the conversion goes on."""

    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    source = tiny_checkpoint("llama")
    monkeypatch.setattr("sys.stderr", Gone())
    result = spikeconv("convert", source, "-o", tmp_path / "out")
    assert result.code == 0 and (tmp_path / "out/spikeconv.json").is_file()
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", ["spikeconv"])
    assert spikeconv("verify", tmp_path / "nowhere").err.startswith("error: ")  # and none of what was not heard


def test_a_source_without_tokenizer_is_no_default(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    bare, old, new = (tmp_path / name for name in ("bare", "old", "new"))
    shutil.copytree(tiny_checkpoint("llama"), bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    assert spikeconv("convert", tiny_checkpoint("llama"), "-o", old, "-q").code == 0
    result = spikeconv("convert", bare, "-o", new, "-q")
    assert result.code == 0 and f"{new} does not become the default" in result.err and "tokenizer.json" in result.err
    assert f"checkpoint {old}" in spikeconv("check").err
    result = spikeconv("generate", new, "-q")
    assert result.code == 2 and f"{new} has no tokenizer" in result.err and "name another" in result.err
    shutil.rmtree(old)
    result = spikeconv("check")
    assert result.code == 2 and f"{old}, is gone" in result.err


def test_a_home_in_an_option(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells leave `~` as it is in `--output=~/out` and between quotes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/text.txt").write_text("It was the best of times. " * 8, encoding="utf-8")
    assert spikeconv("convert", tiny_checkpoint("llama"), "--output=~/out", "-q").code == 0
    assert (tmp_path / "home/out/spikeconv.json").is_file() and not (tmp_path / "~").exists()
    result = spikeconv("perplexity", "~/out", "--text=~/text.txt", "--window", 16, "-q", "--json")
    assert result.json["perplexity"] > 0
    (tmp_path / "home/scheme.yaml").write_text("bits: 6-1.58\n", encoding="utf-8")
    planned = spikeconv("convert", "~/out/../text.txt", "--dry-run", "--scheme=~/scheme.yaml", "-q")
    assert "text.txt" in planned.err and "scheme" not in planned.err
    for command in ("verify", "convert"):
        refused = spikeconv(command, "~nobody-here/out", "-q")
        assert refused.code == 2 and "~nobody-here/out" in refused.err


def test_what_is_rounded_by_choice(spikeconv: Run, converted: Callable[..., Path], tmp_path: Path) -> None:
    """`--head-bits` and `--cache-dtype` reach the model, whose numbers say so, or are refused."""
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times. " * 8, encoding="utf-8")
    for command, own in (("generate", ()), ("perplexity", ("--text", text, "--window", 16))):
        for options, settings, words in (
            (("--head-bits", 8), {}, "multiple of 32"),
            (("--cache-dtype", "bfloat16"), {"kv_bits": 4}, "no float keys and values"),
        ):
            refused = spikeconv(command, converted("llama", **settings), *own, *options, "-q")
            assert refused.code == 2 and words in " ".join(refused.err.split())
    both = ("--text", text, "--window", 16, "--head-bits", 8, "--cache-dtype", "bfloat16", "--json", "-q")
    result = spikeconv("perplexity", converted("mistral"), *both).json  # a hidden size of 96
    assert result["dtype"] == "float32, 8-bit head, bfloat16 cache"
    assert result["measured"]["head_bits"] == 8 and result["measured"]["cache_dtype"] == "bfloat16"
