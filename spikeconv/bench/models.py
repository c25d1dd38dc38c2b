"""A whole converted model against the float model it came from, and against llama.cpp where that is installed."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spikeconv.bench.timing import median_seconds
from spikeconv.checkpoint.folder import source_path
from spikeconv.engine import (
    PARTS,
    Engine,
    RecurrentEngine,
    RecurrentSequence,
    Sequence,
    recurrent_engine,
    runs_decoder,
    runs_recurrent,
)
from spikeconv.evaluate.models import load_checkpoint, load_source
from spikeconv.integrations.engine import keeps_floats
from spikeconv.integrations.head import is_rounded_by_choice, round_head
from spikeconv.integrations.memory import memory_keyword, memory_of

__all__ = ["ModelParts", "ModelRow", "Speeds", "bench_model", "model_calls", "speeds"]

SLOWEST = 20.0
"""Seconds of a prefill above which a peer is left out (bfloat16 on a processor without it, say)."""

PROMPT = list(range(32))
"""What is decoded after."""

STRETCH = 8
"""Tokens that a model decodes before the next has its turn."""


@dataclass(frozen=True)
class ModelRow:
    """One measurement: what ran, the model, tokens a second, and how many times the float32 model's that is."""

    run: str
    model: str
    tokens_per_second: float
    ratio: float


@dataclass(frozen=True)
class ModelParts:
    """What a run of the engine took: milliseconds in all, and the share of each of its parts."""

    run: str
    milliseconds: float
    shares: dict[str, float]


def bench_model(
    checkpoint: Path,
    source: Path | None = None,
    *,
    prompt: int = 2048,
    new_tokens: int = 48,
    seconds: float = 1.0,
    device: str = "cpu",
    on_load: Callable[[Any], None] = lambda model: None,
) -> tuple[list[ModelRow], list[ModelParts]]:
    """Measure prefill and decode of a checkpoint and of its peers, in turns; then where the engine's time goes.

    Args:
        checkpoint: a converted checkpoint.
        source: what it was converted from; None: as recorded, if it was converted here.
        prompt: tokens of the prefill.
        new_tokens: tokens decoded one by one after a prompt of 32.
        seconds: about how long each prefill is measured.
        device: where the models run.
        on_load: told of the spiking model before anything is measured.
    """
    models: dict[str, Any] = {
        "HF fp32": load_source(checkpoint, source, device=device, dtype="float32").model,
        "HF bf16": load_source(checkpoint, source, device=device, dtype="bfloat16").model,
        "spiking": load_checkpoint(checkpoint, device=device).model,
    }
    on_load(models["spiking"])
    calls = model_calls(models, prompt)
    if device == "cpu":
        calls |= _by_choice(models["spiking"], calls["spiking"])
    source = source_path(checkpoint, source)
    if (
        device == "cpu"
        and source is not None
        and (llama := _llama(source, prompt + len(PROMPT) + 2 * new_tokens)) is not None
    ):
        calls["llama.cpp"] = _llama_calls(llama, prompt)
    rates = speeds(calls, prompt, new_tokens, seconds)
    rows = [
        ModelRow(run, name, rate, rate / of_run["HF fp32"])
        for run, of_run in ((f"prefill {prompt}", rates.prefill), ("decode", rates.decode))
        for name, rate in of_run.items()
    ]
    return rows, _parts(models["spiking"], prompt, new_tokens)


def _by_choice(model: Any, calls: "Calls") -> "dict[str, Calls]":
    """The same with keys and values in bfloat16, and with the head in 8 bits, where these are a choice."""
    found = {}
    if keeps_floats(model):
        keep = partial(setattr, model.base_model.forward, "cache_dtype")
        found["spiking, bf16 cache"] = _while(partial(keep, torch.bfloat16), partial(keep, torch.float32), calls)
    if is_rounded_by_choice(model):
        found["spiking, 8-bit head"] = _while(partial(round_head, model, 8), partial(round_head, model, None), calls)
    return found


def _while(begin: Callable[[], None], end: Callable[[], None], calls: "Calls") -> "Calls":
    """The same with something set while they run."""

    def within(call: Callable[[], Any]) -> Any:
        begin()
        try:
            return call()
        finally:
            end()

    def decode() -> Callable[[], object]:
        step = within(calls.decode)
        return lambda: within(step)

    return Calls(lambda: within(calls.prefill), decode)


def _parts(model: Any, prompt: int, new_tokens: int) -> list[ModelParts]:
    """By the engine's own counters, in the best of three rounds: of a prefill, and of a token in the mean.

    Nothing where the engine does not run.
    """
    if runs_decoder(model):
        return _parts_of_decoder(Engine(model, max(prompt, len(PROMPT) + new_tokens)), prompt, new_tokens)
    return _parts_of_recurrent(recurrent_engine(model), prompt, new_tokens) if runs_recurrent(model) else []


def _parts_of_decoder(engine: Engine, prompt: int, new_tokens: int) -> list[ModelParts]:
    cache = engine.cache(1, engine.positions)

    def run(ids: torch.Tensor, sequence: Sequence) -> None:
        engine.forward(ids, [sequence], cache, torch.tensor([len(ids) - 1]), logits=True)

    ids = torch.randint(engine.vocabulary, (prompt,))
    more = (Sequence(1, at=len(PROMPT) + i, position=len(PROMPT) + i) for i in range(new_tokens))
    return [
        _shares(f"prefill {prompt}", engine.seconds, [partial(run, ids, Sequence(prompt))]),
        _shares("decode", engine.seconds, [partial(run, ids[:1], sequence) for sequence in more]),
    ]


def _parts_of_recurrent(engine: RecurrentEngine, prompt: int, new_tokens: int) -> list[ModelParts]:
    state = engine.state(1)

    def run(ids: torch.Tensor) -> None:
        engine.forward(ids, [RecurrentSequence(len(ids))], state, torch.tensor([len(ids) - 1]), logits=True)

    ids = torch.randint(engine.vocabulary, (prompt,))
    return [
        _shares(f"prefill {prompt}", engine.seconds, [partial(run, ids)]),
        _shares("decode", engine.seconds, [partial(run, ids[:1])] * new_tokens),
    ]


def _shares(run: str, seconds: torch.Tensor, calls: list[Callable[[], None]]) -> ModelParts:
    best = torch.full_like(seconds, torch.inf)
    for _ in range(3):
        seconds.zero_()
        for call in calls:
            call()
        best = min(best, seconds.clone(), key=torch.sum)
    total = float(best.sum())
    return ModelParts(run, 1e3 * total / len(calls), dict(zip(PARTS, (best / total).tolist(), strict=True)))


class Calls(NamedTuple):
    """What is timed of a model: a prefill, and what reads a prompt and returns what adds a token to it."""

    prefill: Callable[[], object]
    decode: Callable[[], Callable[[], object]]


class Speeds(NamedTuple):
    """Tokens a second by model; a prefill that takes longer than `SLOWEST` seconds is left out."""

    prefill: dict[str, float]
    decode: dict[str, float]


def model_calls(models: Mapping[str, Any], prompt: int) -> dict[str, Calls]:
    """What is timed of models of transformers, which all read the same random tokens."""
    vocabulary = min(model.config.get_text_config().vocab_size for model in models.values())
    ids = torch.randint(vocabulary, (1, prompt))
    return {name: Calls(_prefill(model, ids.to(model.device)), _decode(model)) for name, model in models.items()}


def speeds(calls: Mapping[str, Calls], prompt: int, new_tokens: int, seconds: float) -> Speeds:
    """Measure models in turns, so that a busy machine slows all of them alike; medians.

    Args:
        calls: by model.
        prompt: tokens of the prefill.
        new_tokens: tokens decoded one by one after a prompt of 32.
        seconds: about how long each prefill is measured.
    """
    with torch.inference_mode():
        bearable = {name: call.prefill for name, call in calls.items() if _is_bearable(call.prefill)}
        prefill = {name: prompt / taken for name, taken in median_seconds(bearable, seconds).items()}
        taken = _token_seconds({name: call.decode for name, call in calls.items()}, new_tokens)
    return Speeds(prefill, {name: 1 / each for name, each in taken.items()})


def _is_bearable(call: Callable[[], object]) -> bool:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start < SLOWEST


def _prefill(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    # The result is waited for, also on a GPU.
    return lambda: model(ids, use_cache=False, logits_to_keep=1).logits[0, -1, 0].item()


def _decode(model: Any) -> Callable[[], Callable[[], object]]:
    """Reads a prompt and returns what adds a token to it."""

    memory = memory_keyword(model)

    def start() -> Callable[[], object]:
        seen = memory_of(model, model(torch.tensor([PROMPT], device=model.device), use_cache=True))
        token = torch.tensor([[7]], device=model.device)
        return lambda: model(token, **{memory: seen}, use_cache=True).logits[0, -1, 0].item()

    return start


def _token_seconds(starts: dict[str, Callable[[], Callable[[], object]]], new_tokens: int) -> dict[str, float]:
    """Median seconds a token; the models take turns in stretches, whose first token finds its weights in no cache."""
    steps = {name: start() for name, start in starts.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(max(1, new_tokens // STRETCH)):
        for name, step in steps.items():
            step()
            for _ in range(STRETCH):
                begin = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def _llama(source: Path, length: int) -> Any:
    """llama.cpp with the same GGUF file, if `llama-cpp-python` is installed and the source is one."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    if source.suffix != ".gguf":
        return None
    threads = torch.get_num_threads()
    return Llama(str(source), n_ctx=length, n_threads=threads, n_threads_batch=threads, verbose=False)


def _llama_calls(model: Any, prompt: int) -> Calls:
    def read(tokens: list[int]) -> None:
        model.reset()
        model.eval(tokens)

    def start() -> Callable[[], object]:
        read(PROMPT)
        return lambda: model.eval([7])

    return Calls(lambda: read([1 + i % 1000 for i in range(prompt)]), start)
