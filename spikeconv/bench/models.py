"""A whole converted model against the float model it came from, and against llama.cpp where that is installed."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spikeconv.bench.timing import median_seconds
from spikeconv.evaluate.models import load_checkpoint, load_source, read_record

__all__ = ["ModelRow", "bench_model"]

SLOWEST = 20.0
"""Seconds of a prefill above which a peer is left out (bfloat16 on a processor without it, say)."""


@dataclass(frozen=True)
class ModelRow:
    """One measurement: what ran, the model, tokens a second, and how many times the float32 model's that is."""

    run: str
    model: str
    tokens_per_second: float
    ratio: float


def bench_model(checkpoint: Path, *, prompt: int = 2048, new_tokens: int = 32, seconds: float = 1.0) -> list[ModelRow]:
    """Measure prefill and decode of a checkpoint and of its peers, in turns.

    Args:
        checkpoint: a converted checkpoint whose source is still there.
        prompt: tokens of the prefill.
        new_tokens: tokens decoded one by one after a prompt of 32.
        seconds: about how long each prefill is measured.
    """
    models: dict[str, Any] = {
        "HF fp32": load_source(checkpoint, device="cpu", dtype="float32").model,
        "HF bf16": load_source(checkpoint, device="cpu", dtype="bfloat16").model,
        "spiking": load_checkpoint(checkpoint, device="cpu").model,
    }
    ids = torch.randint(models["spiking"].config.get_text_config().vocab_size, (1, prompt))
    runs: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        calls = {name: call for name, model in models.items() if _is_bearable(call := _prefill(model, ids))}
        runs[f"prefill {prompt}"] = {name: prompt / t for name, t in median_seconds(calls, seconds).items()}
        runs["decode"] = _decode_rates(models, new_tokens)
    _add_llama(Path(read_record(checkpoint)["source"]["path"]), prompt, new_tokens, runs)
    return [
        ModelRow(run, name, rate, rate / rates["HF fp32"])
        for run, rates in runs.items()
        for name, rate in rates.items()
    ]


def _is_bearable(call: Callable[[], object]) -> bool:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start < SLOWEST


def _prefill(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    return lambda: model(ids, use_cache=False, logits_to_keep=1)


def _decode_rates(models: dict[str, Any], new_tokens: int) -> dict[str, float]:
    """Tokens a second at batch 1; the models take turns token by token."""
    caches = {name: model(torch.arange(32)[None], use_cache=True).past_key_values for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    token = torch.tensor([[7]])
    for _ in range(new_tokens + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(token, past_key_values=caches[name], use_cache=True)
            times[name].append(time.perf_counter() - start)
    return {name: 1 / statistics.median(values[2:]) for name, values in times.items()}


def _add_llama(source: Path, prompt: int, new_tokens: int, runs: dict[str, dict[str, float]]) -> None:
    """llama.cpp on the same GGUF file, if `llama-cpp-python` is installed and the source is one."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return
    if source.suffix != ".gguf":
        return
    threads = torch.get_num_threads()
    model = Llama(str(source), n_ctx=prompt + new_tokens, n_threads=threads, n_threads_batch=threads, verbose=False)

    def prefill() -> None:
        model.reset()
        model.eval(list(range(1, prompt + 1)))

    runs[f"prefill {prompt}"]["llama.cpp"] = prompt / median_seconds({"prefill": prefill}, 1.0)["prefill"]
    model.reset()
    model.eval(list(range(1, 33)))
    times = []
    for _ in range(new_tokens):
        start = time.perf_counter()
        model.eval([7])
        times.append(time.perf_counter() - start)
    runs["decode"]["llama.cpp"] = 1 / statistics.median(times)
