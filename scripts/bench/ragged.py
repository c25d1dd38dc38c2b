"""Texts of different length in one batch, against one after another and against padding: see docs/benchmarks/engine.md.

Usage: python scripts/bench/ragged.py CHECKPOINT [--requests 32] [--seconds 3] [--turns 5]

Each text's last token is scored: by the engine in one batch as long as each text is, by the engine one text after
another, and padded to the longest by the same model and by the float model that it came from. `decode` adds a token to
each of as many texts of 64 tokens. All take turns in one process; medians, with one thread
(OMP_NUM_THREADS=1) of the time that it ran.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from spikeconv.bench.limits import measure_limits
from spikeconv.bench.timing import median_seconds
from spikeconv.engine import Engine, Sequence, score
from spikeconv.evaluate.models import load_checkpoint, load_source
from spikeconv.integrations.memory import memory_keyword, memory_of

LENGTHS = {"1 to 4 tokens": (1, 4), "4 to 16 tokens": (4, 16), "16 to 512 tokens": (16, 512)}
PAST = 64

Way = Callable[[], object]


def scored(model: Any, engine: Engine, source: Any, lengths: tuple[int, int], requests: int) -> dict[str, Way]:
    """The ways to score some random texts, lengths drawn evenly."""
    counts = torch.randint(lengths[0], lengths[1] + 1, (requests,)).tolist()
    texts = [torch.randint(engine.vocabulary, (count + 1,)) for count in counts]
    pairs = [(text[:-1].tolist(), text[-1:].tolist()) for text in texts]
    head = model.get_output_embeddings()
    padded = pad_sequence([text[:-1] for text in texts], batch_first=True)
    last = torch.tensor(counts) - 1

    def padding(model: Any) -> Way:
        def run() -> torch.Tensor:
            hidden = model.base_model(padded, use_cache=False).last_hidden_state
            logits: torch.Tensor = model.get_output_embeddings()(hidden[torch.arange(requests), last])
            return logits.log_softmax(-1)

        return run

    return {
        "one batch": lambda: list(score(engine, head, pairs, lengths[1])),
        "one after another": lambda: [list(score(engine, head, [pair], lengths[1])) for pair in pairs],
        "padded": padding(model),
        "float, padded": padding(source),
    }


def decoded(engine: Engine, source: Any, requests: int) -> dict[str, Way]:
    """The ways to add a token to each of some texts of PAST tokens."""
    ids = torch.randint(engine.vocabulary, (requests, PAST))
    cache, rows = engine.cache(requests, PAST + 1), torch.arange(requests)
    prompts = [Sequence(PAST, slot) for slot in range(requests)]
    engine.forward(ids.flatten(), prompts, cache, rows[:0], logits=True)
    steps = [Sequence(1, slot, at=PAST, position=PAST) for slot in range(requests)]
    tokens, one = ids[:, 0].clone(), rows[:1]
    memory = memory_of(source, source(ids, use_cache=True))

    def by_transformers() -> torch.Tensor:
        logits: torch.Tensor = source(tokens[:, None], **{memory_keyword(source): memory}, use_cache=True).logits
        memory.crop(-1)
        return logits

    return {
        "one batch": lambda: engine.forward(tokens, steps, cache, rows, logits=True),
        "one after another": lambda: [
            engine.forward(tokens[i : i + 1], [step], cache, one, logits=True) for i, step in enumerate(steps)
        ],
        "float, padded": by_transformers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = load_checkpoint(options.checkpoint, device="cpu", dtype="float32").model
    source = load_source(options.checkpoint, device="cpu", dtype="float32").model
    engine = Engine(model)
    print(f"{processor()}, {measure_limits()}\n")
    print(f"| {options.requests} requests | one batch, ms | × one after another | × padded | × float, padded |")
    print("|---|---|---|---|---|")
    measure = partial(median_seconds, seconds=options.seconds, turns=options.turns)
    with torch.inference_mode():
        model(torch.zeros(1, 1, dtype=torch.int64))  # the first forward runs the modules
        show(f"a token behind {PAST}", measure(decoded(engine, source, options.requests)))
        for name, lengths in LENGTHS.items():
            show(name, measure(scored(model, engine, source, lengths, options.requests)))


def show(name: str, seconds: dict[str, float]) -> None:
    """One row of the table."""
    batch = seconds["one batch"]
    ways = ("one after another", "padded", "float, padded")
    ratios = (f"{seconds[way] / batch:.2f}" if way in seconds else "" for way in ways)
    print(f"| {name} | {1e3 * batch:.1f} | {' | '.join(ratios)} |", flush=True)


def processor() -> str:
    """The machine's kind, as Linux calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "an unknown processor")


if __name__ == "__main__":
    main()
