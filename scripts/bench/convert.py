"""Conversion of a whole checkpoint beside the bare work: rotate, round and pack the same matrices in memory.

    python scripts/bench/convert.py --size 1b                  # 0.1b, 1b, 7b; the checkpoint is made once, in --folder
    python scripts/bench/convert.py --size 7b --clip mse
    python scripts/bench/convert.py --size 7b --reload         # load what was written, generate 16 tokens, verify
    pip install --no-deps --target peer auto-round py-cpuinfo; PYTHONPATH=peer python scripts/bench/convert.py

Prints weights a minute, the share of the bare rate (same threads, same run), the peak of resident memory, with pages of
files and without, and what `spikeconv plan` had foreseen of all that. The checkpoint has LLaMA's shapes and random
bfloat16 weights, sharded as on the hub. Where auto-round can be imported its conversion without a model is timed too
(rounding to nearest, 4 bits in groups of 128, neither rotated nor hashed).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from spikeconv.bench.limits import measure_limits
from spikeconv.checkpoint.layout import Layout, TensorSpec
from spikeconv.conversion.linear import BLOCK
from spikeconv.conversion.writing import default_jobs
from spikeconv.rotation import Rotation
from spikeconv.sources.model_config import build_empty, hf_config
from spikeconv.weights import quantize_rtn

SIZES = {
    "0.1b": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
        **{"num_key_value_heads": 8},
    },
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}
SHARD = 10 * 10**9
RELOAD = """
import sys, torch
from pathlib import Path
from spikeconv.evaluate.models import load_converted
from spikeconv.verification.run import verify_model
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20

path = Path(sys.argv[1])
model = load_converted(path, device="cpu")
tokens = model.generate(torch.arange(1, 9)[None], max_new_tokens=16, min_new_tokens=16, do_sample=False)
print(f"{peak():.2f} GiB to load it and generate 16 tokens;", end=" ")
found = verify_model(model, tokens[:, :4], path, source=False)
clean = "clean" if found.clean else "NOT CLEAN"
print(f"{found.accumulators} accumulators of {found.linears} linears, {clean}, {peak():.2f} GiB")
"""
"""What reads a converted checkpoint back; without the source, whose float32 would not fit."""
NOISE = 1 << 26


def make_source(folder: Path, size: str) -> None:
    """A checkpoint of random weights, if it is not there yet."""
    if (folder / "config.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "dtype": "bfloat16"}
    config |= {"tie_word_embeddings": False, **SIZES[size]}
    shapes = {name: tuple(tensor.shape) for name, tensor in build_empty(hf_config(config)).state_dict().items()}
    layout = Layout.of((TensorSpec(name, torch.bfloat16, shape) for name, shape in shapes.items()), SHARD)
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for file, header in layout.headers.items():
        with (folder / file).open("wb") as out:
            out.write(header)
            for number, place in enumerate(p for p in layout.places.values() if p.shard == file):
                left = place.spec.size // 2
                while left:
                    part = noise.roll(number)[:left]
                    out.write(part.view(torch.uint8).numpy().tobytes())
                    left -= len(part)
    if len(layout.headers) > 1:
        index = {"metadata": {"total_size": layout.tensor_bytes}, "weight_map": layout.weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))


def touch_pages(folder: Path, size: int) -> None:
    """Write and remove as many bytes as the output will have: a virtual machine hands free pages back to its host, and
    taking them again, ten times as slow as writing them, is no part of a conversion."""
    noise = os.urandom(NOISE)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(-(-size // NOISE)):
            file.write(noise)


def watched(command: list[str]) -> tuple[str, float, int, int]:
    """What a command prints, its seconds, and its peaks in bytes: all resident pages, and those of no file."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks = {"VmHWM": 0, "RssAnon": 0}

    def watch() -> None:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            for name, _, value in (line.partition(":") for line in lines):
                if name in peaks:
                    peaks[name] = max(peaks[name], 1024 * int(value.split()[0]))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed, errors = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {errors}")
    return printed, time.perf_counter() - start, peaks["VmHWM"], peaks["RssAnon"]


def bare_rate(size: str, search: bool, jobs: int, block: int | None = None, seconds: float = 4) -> float:
    """Weights a second of rotate, round and pack alone, on the float32 matrices of a layer in memory.

    Args:
        size: which model's.
        search: clip search.
        jobs: matrices at a time.
        block: weights at a time, in the cache, on one thread of torch's; None: whole matrices, on all of them.
        seconds: to measure for.
    """
    shape = SIZES[size]
    hidden, ffn = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape.get("num_key_value_heads", shape["num_attention_heads"])
    shapes = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden), (ffn, hidden), (ffn, hidden)]
    matrices = [torch.randn(each) for each in [*shapes, (hidden, ffn)]]
    rotations = {matrix.shape[1]: Rotation(matrix.shape[1], 2) for matrix in matrices}

    def work(matrix: torch.Tensor) -> int:
        rotation = rotations[matrix.shape[1]]
        for part in matrix.split(len(matrix) if block is None else max(1, block // matrix.shape[1])):
            quantize_rtn(rotation(part), 4, search)
        return matrix.numel()

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(jobs, "bare", torch.set_num_threads, (threads if block is None else 1,)) as pool:
        list(pool.map(work, matrices))
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            done += sum(pool.map(work, matrices))
        rate = done / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--clip", choices=("none", "mse"), default="none", help="min-max, or clip search")
    parser.add_argument("--reload", action="store_true", help="also load, run and verify the result")
    parser.add_argument("--jobs", type=int, default=default_jobs())
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "spikeconv" / "bench")
    arguments = parser.parse_args()
    source, output = arguments.folder / f"llama-{arguments.size}", arguments.folder / f"out-{os.getpid()}"
    make_source(source, arguments.size)
    for file in source.glob("*.safetensors"):  # into the page cache
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass
    search = arguments.clip == "mse"
    bare, blocks = (bare_rate(arguments.size, search, arguments.jobs, block) for block in (None, BLOCK))
    options = [str(source), "-o", str(output), "--jobs", str(arguments.jobs), "--weight-clip", arguments.clip]
    spikeconv = [sys.executable, "-m", "spikeconv"]
    room = sum(file.stat().st_size for file in source.glob("*.safetensors")) // 3  # more than 4-bit weights have
    touch_pages(arguments.folder, room)
    plan: dict[str, Any] = json.loads(watched([*spikeconv, "plan", *options, "--json", "--quiet"])[0])
    touch_pages(arguments.folder, room)
    try:
        printed, seconds, resident, anonymous = watched([*spikeconv, "convert", *options, "--json", "--quiet"])
        written = sum(file.stat().st_size for file in output.glob("*.safetensors"))
        reloaded = watched([sys.executable, "-c", RELOAD, str(output)]) if arguments.reload else None
    finally:
        shutil.rmtree(output, ignore_errors=True)
    weights, converting, foreseen = plan["weights"], json.loads(printed)["seconds"], plan["estimate"]
    kernels = measure_limits(0.03, "cpu").kernels
    print(
        f"{arguments.size}, clip {arguments.clip}, {arguments.jobs} threads, {kernels}: {weights / 1e9:.2f} G weights"
    )
    print(f"  whole command {seconds:.1f} s, {60 * weights / seconds / 1e9:.2f} G weights a minute")
    print(f"  without starting and planning {converting:.1f} s, {60 * weights / converting / 1e9:.2f} G a minute:")
    for name, rate in (("whole matrices", bare), ("blocks in the cache", blocks)):
        share = weights / converting / rate
        print(f"    {share:.2f} of rotating, rounding and packing {name} ({60 * rate / 1e9:.2f} G)")
    print(f"  {_peaks(resident, anonymous)}")
    print(
        f"  foreseen / found: seconds {foreseen['seconds'] / converting:.2f}, memory "
        f"{foreseen['peak_bytes'] / resident:.2f}, bytes written {foreseen['output_bytes'] / written:.4f}"
    )
    if reloaded is not None:
        print(f"  loaded, run and verified in {reloaded[1]:.1f} s: {reloaded[0].strip()}")
    if find_spec("auto_round"):
        peer = [sys.executable, "-m", "auto_round", "--model", str(source), "--model_free", "--scheme", "W4A16"]
        try:
            _, theirs, *peaks = watched([*peer, "--output_dir", str(output)])
        finally:
            shutil.rmtree(output, ignore_errors=True)
        name = f"auto-round {version('auto-round')}, model-free W4A16"
        print(f"  {name}: {theirs:.1f} s, {theirs / seconds:.2f} times ours; {_peaks(*peaks)}")


def _peaks(resident: int, anonymous: int) -> str:
    return f"peak {resident / 2**30:.2f} GiB, without pages of files {anonymous / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
