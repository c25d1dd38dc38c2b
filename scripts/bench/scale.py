"""What conversion, evaluation and serving take, from a laptop to many devices: bytes, seconds, devices.

    python scripts/bench/scale.py                                   # llama2-7b, llama2-70b, llama3.1-405b
    python scripts/bench/scale.py qwen2.5-14b --disk 3 --gpu 80,1800,60000

Bytes are exact: they follow from the configurations. Rates of this machine are measured in the same run: rounding and
writing (`spikeconv plan`, two seconds a model), and products of LLaMA2-7B's layers at 1 and at 256 tokens (`spikeconv
bench`). A GPU's rates are given, and all else is computed: a token costs the bytes of weights and head over the
memory's rate, or its multiply-accumulates over that of the products, whichever is more; attention and the network
between devices are left out. Prints Markdown.
"""

import argparse
import json
import math
import subprocess
import sys
from typing import Any, NamedTuple

from spikeconv.sources.presets import model_presets

MODELS = ("llama2-7b", "llama2-70b", "llama3.1-405b")
PIQA = 90_164
"""Tokens that `spikeconv eval --tasks piqa` computes for all 1,838 questions with SmolLM2's tokenizer, as it says."""
REQUESTS, CONTEXT = 32, 4096
SHARE_OF_MEMORY = 0.9
"""Of a device, for weights and caches."""


class Rates(NamedTuple):
    """What computes: bytes and multiply-accumulates a second."""

    bytes: float
    macs: float


class Token(NamedTuple):
    """What a token reads, bytes, where it is alone, and what it multiplies."""

    bytes: float
    macs: float

    @classmethod
    def of(cls, plan: Any) -> "Token":
        """By the plan of a conversion: packed weights, and the head in 16 bits."""
        head = plan["estimate"]["per_token"]["float_macs"]["head"]
        return cls(
            plan["weights"] * plan["bits_per_weight"] / 8 + 2 * head, plan["estimate"]["per_token"]["macs"] + head
        )

    def seconds(self, count: int, rates: Rates, at_once: int) -> float:
        """Of so many of them, `at_once` of which share one reading of the weights."""
        return max(count / at_once * self.bytes / rates.bytes, count * self.macs / rates.macs)


def said(*command: str) -> Any:
    """What a command of spikeconv prints as JSON; a plan does, also where the disk here is too small for it."""
    done = subprocess.run([sys.executable, "-m", "spikeconv", *command, "--json"], capture_output=True, text=True)
    if not done.stdout:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def rates_here(seconds: str) -> tuple[Rates, str]:
    """Of this machine, with all its threads: weights of one token, products of 256."""
    found = said("bench", "--shapes", "llama2-7b", "--tokens", "1,256", "--nonzero", "1", "--seconds", seconds)
    dense = [row for row in found["kernels"] if row["op"] == "dense"]
    limits = found["limits"]
    taken = {n: sum(row["seconds"] for row in dense if row["tokens"] == n) for n in (1, 256)}
    # A layer's linears: as many bytes of 4-bit weights at one token, as many products at 256.
    shares = {n: sum(row["seconds"] * row["fraction"] for row in dense if row["tokens"] == n) / taken[n] for n in taken}
    what = f"{limits['threads']} threads, {limits['kernels']}"
    return Rates(limits["dram"] * shares[1], limits["macs"] * shares[256]), what


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    """Print it as Markdown."""
    print(f"\n{title}\n\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def human(seconds: float) -> str:
    """Seconds as they are said."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def cache_bytes(model: str, number: float) -> float:
    """Keys and values of a token, of so many bytes a number."""
    config = model_presets()[model].config
    assert config is not None
    heads = config.get("num_key_value_heads", config["num_attention_heads"])
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return float(2 * config["num_hidden_layers"] * heads * head_dim * number)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL", help="presets with a configuration")
    parser.add_argument("--bits", default="4-1.58")
    parser.add_argument("--disk", type=float, default=2.0, help="GB/s that the source is read with")
    parser.add_argument("--hosts", type=int, default=8, help="of a conversion with --shard")
    parser.add_argument("--gpu", default="141,2200,96000", help="GB of memory; GB/s at one token; 10⁹ products/s")
    parser.add_argument("--seconds", default="0.3", help="how long each product is measured")
    given = parser.parse_args()
    memory, *of_gpu = (float(number) * 1e9 for number in given.gpu.split(","))
    gpu, (here, what) = Rates(*of_gpu), rates_here(given.seconds)
    plans = {model: said("plan", model, "--bits", given.bits) for model in given.models}
    print(f"This machine ({what}): weights of one token {here.bytes / 1e9:.1f} GB/s, products of 256 tokens "
          f"{here.macs / 1e9:.0f} G/s (measured). A GPU as given: {given.gpu}.")  # fmt: skip

    rows = []
    for model, plan in plans.items():
        e = plan["estimate"]
        read = e["source_bytes"] / (given.disk * 1e9)
        alone = max(e["seconds"], read)
        hosts = max(e["seconds"] / given.hosts, read)
        sizes = [f"{e[name] / 1e9:.1f} GB" for name in ("source_bytes", "output_bytes", "peak_bytes")]
        rows.append([model, *sizes, *map(human, (e["seconds"], read, alone, hosts))])
    heads = ["model", "source", "converted", "peak memory", "rounding here, measured on a sample",
             f"reading at {given.disk:g} GB/s", "one host", f"{given.hosts} hosts, one disk"]  # fmt: skip
    table(f"**Conversion**, `--bits {given.bits}`. Bytes exact; hosts computed.", heads, rows)

    rows = []
    for model, plan in plans.items():
        token = Token.of(plan)
        holds = math.ceil(plan["estimate"]["output_bytes"] / (memory * SHARE_OF_MEMORY))
        alone = token.seconds(PIQA, gpu, 512)
        rows.append([model, human(token.seconds(PIQA, here, 512)), f"{holds}", human(alone), human(alone / 8 * holds)])
    heads = ["model", "this machine", "GPUs that hold it", "one after the other", "8 GPUs, each with its share"]
    table(f"**Evaluation**: PIQA, {PIQA:,} tokens in calls of 512. Computed.", heads, rows)

    rows = []
    for model, plan in plans.items():
        token, held = Token.of(plan), plan["estimate"]["output_bytes"]
        caches = {bits: REQUESTS * CONTEXT * cache_bytes(model, bits / 8) for bits in (16, 4)}
        devices = {bits: math.ceil((held + c) / (memory * SHARE_OF_MEMORY)) for bits, c in caches.items()}
        rates = [1 / token.seconds(1, each, 1) for each in (here, gpu)]
        together = REQUESTS / token.seconds(REQUESTS, gpu, REQUESTS)
        rows.append([model, f"{rates[0]:.2f}", f"{caches[16] / 1e9:.0f} GB, {caches[4] / 1e9:.0f} GB",
                     f"{devices[16]}, {devices[4]}", f"{rates[1]:.0f}", f"{together:.0f}"])  # fmt: skip
    heads = ["model", "tokens/s here", f"cache of {REQUESTS} × {CONTEXT:,} tokens, 16 and 4 bits", "GPUs",
             "tokens/s of one request", f"of {REQUESTS}"]  # fmt: skip
    table("**Serving**: at most so many tokens a second, on as many GPUs one behind the other. Computed.", heads, rows)


if __name__ == "__main__":
    main()
