"""Tokens per second of a converted model in vLLM, beside vLLM's own bfloat16 and float32, in one run.

    scripts/setup --vllm       # makes the environment
    .venv-vllm/bin/python scripts/bench/serving.py [--bits 4-1.58] [--requests 16] [--compile]

Each row is an engine of its own: so many prompts of 32 tokens at once, 64 new tokens each; the best of three.
"""

import argparse
import gc
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
PROMPT, NEW, ROUNDS = 32, 64, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="preset, hub id or directory")
    parser.add_argument("--bits", default="4-1.58")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--compile", action="store_true", help="torch.compile, as vLLM does unless told otherwise")
    options = parser.parse_args()

    import spikeconv
    from spikeconv.sources.float_model import load_float
    from spikeconv.sources.resolve import open_source, resolve_source

    with tempfile.TemporaryDirectory() as folder:
        floats, spiking = Path(folder) / "float", Path(folder) / "spiking"
        loaded = load_float(open_source(resolve_source(options.model)), device="cpu", dtype="auto")
        loaded.model.save_pretrained(floats)
        loaded.tokenizer.save_pretrained(floats)
        spikeconv.convert(options.model, spiking, bits=options.bits)
        print("| model | computed in | 1 request, tokens/s |", f"{options.requests} requests, tokens/s |")
        print("|---|---|---|---|")
        for name, path in (("float", floats), (options.bits, spiking)):
            for dtype in ("bfloat16", "float32"):
                one, several = rates(path, dtype, options.requests, not options.compile)
                print(f"| {name} | {dtype} | {one:.1f} | {several:.1f} |", flush=True)


def rates(path: Path, dtype: str, requests: int, eager: bool) -> tuple[float, float]:
    """New tokens per second of one request, and of several at once."""
    from vllm import LLM, SamplingParams, TokensPrompt

    small = {"max_model_len": 256, "kv_cache_memory_bytes": 1 << 28, "max_num_seqs": requests}
    engine = LLM(str(path), dtype=dtype, enforce_eager=eager, enable_prefix_caching=False, **small)
    sampling = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, detokenize=False)
    best = []
    for count in (1, requests):
        prompts = [TokensPrompt(prompt_token_ids=[100 + 7 * i + j for j in range(PROMPT)]) for i in range(count)]
        seconds = []
        for _ in range(ROUNDS + 1):  # the first warms up
            start = time.perf_counter()
            engine.generate(prompts, sampling, use_tqdm=False)
            seconds.append(time.perf_counter() - start)
        best.append(count * NEW / min(seconds[1:]))
    del engine
    gc.collect()
    return best[0], best[1]


if __name__ == "__main__":
    main()
