"""`spikeconv serve` and `eval --engine vllm`, without vLLM."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spikeconv.serving import versions


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda _: "0.32.0+cpu")


def test_serve_becomes_vllm_serve(
    spikeconv: Callable[..., Any], converted: Callable[..., Path], with_vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = converted("llama")
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    result = spikeconv("serve", path, "--port", 8001, "--dry-run", "--json", "--", "--max-num-seqs", 4)
    assert result.code == 0, result.err
    words = result.json["command"]
    assert words[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", str(path)]
    options = ["--dtype", "float32", "--served-model-name", "model", "--port", "8001", "--max-num-seqs", "4"]
    assert words[5:] == options
    assert result.json["environment"] == {"VLLM_PLUGINS": "another,spikeconv"}
    ran: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *arguments: ran.append(arguments))
    spikeconv("serve", path, "--port", 8001, "--", "--max-num-seqs", 4)
    ((program, arguments, environment),) = ran
    assert [program, arguments] == [words[0], words] and environment["VLLM_PLUGINS"] == "another,spikeconv"
    for wrong, said in (
        ((path, "--tensor-parallel-size", 2), "attention heads (9); possible here: 1."),
        ((path, "--json"), "--json is for --dry-run"),
        ((converted("llama", kv={"bits": 4}),), "kv_bits=4"),
        ((path.parent,), "is not a converted checkpoint"),
    ):
        result = spikeconv("serve", *wrong)
        assert (result.code, result.out) == (2, "") and said in result.err
    assert len(ran) == 1


def test_another_vllm_or_none_is_told(
    spikeconv: Callable[..., Any], converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tasks = converted("llama"), ("--tasks", "piqa", "--data", "offline")
    ours = ("--engine", "vllm", *tasks)
    for found, said in (("0.31.2", "vLLM 0.31.2 is installed; spikeconv's plug-in is made for vllm"), (None, "pip")):
        monkeypatch.setattr(versions, "vllm_version", partial(str, found) if found else lambda: None)
        for words in (("serve", path), ("eval", path, "--engine", "vllm", *tasks)):
            result = spikeconv(*words)
            assert (result.code, result.out) == (2, "") and said in result.err
        counted = converted("llama", kv={"bits": 4})  # which no vLLM can run: nobody should install one for it
        for words in (("serve", counted), ("serve", counted, "--dry-run"), ("eval", counted, *ours)):
            result = spikeconv(*words)
            assert (result.code, result.out) == (2, "") and "kv_bits=4" in result.err
        assert spikeconv("serve", path, "--dry-run").code == 0
    for option in (("--baseline",), ("--exec", "dense"), ("--device", "cpu"), ("--head-bits", 8)):
        result = spikeconv("eval", path, "--engine", "vllm", *tasks, *option)
        assert result.code == 2 and f"{option[0]} is for --engine transformers" in result.err
