"""How much faster RWKV's attention is in chunks than token by token: forward, and with gradients.

Usage: python scripts/bench/wkv.py [--tokens 1024] [--channels 768] [--batch 1] [--seconds 1]

The peers are the loops that it stands in for: transformers' for RWKV-4, the package rwkv7-hf's for RWKV-7; for RWKV-6
the definition, as the authors' package runs it on a CPU. Best of the calls that fit into the time, all in one run.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from rwkv7_hf.ops_rwkv7 import rwkv7_recurrent
from torch import Tensor
from transformers.models.rwkv import modeling_rwkv

from spikeconv.models.wkv import wkv4, wkv6, wkv7

HEAD = 64
Case = tuple[Callable[[], Any], Callable[[], Any], list[Tensor]]


def loop6(r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, u: Tensor) -> Tensor:
    state = torch.zeros(*r.shape[::2], HEAD, HEAD)
    outputs = []
    for t in range(r.shape[1]):
        pair = k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((r[:, t, :, None] @ (u[..., None] * pair + state)).squeeze(-2))
        state = log_decay[:, t].exp()[..., None] * state + pair
    return torch.stack(outputs, 1)


def cases(batch: int, tokens: int, channels: int) -> dict[str, Case]:
    """By version: the loop, ours, and the inputs that gradients go to."""
    flat, heads = (batch, tokens, channels), (batch, tokens, channels // HEAD, HEAD)
    w, u, k, v = torch.randn(channels), torch.randn(channels), torch.randn(flat), torch.randn(flat)
    r6, k6, v6, d6 = (torch.randn(heads) for _ in range(4))
    d6, u6 = -d6.exp(), torch.randn(heads[2:])
    r7, k7, v7 = (torch.randn(heads) for _ in range(3))
    d7, a7 = -0.6 * torch.rand(heads), torch.nn.functional.normalize(torch.randn(heads), dim=-1)
    b7, s7 = -a7 * torch.rand(heads), torch.zeros(batch, channels // HEAD, HEAD, HEAD)
    return {
        "RWKV-4": (
            lambda: modeling_rwkv.rwkv_linear_attention_cpu(w, u, k, v)[0],
            lambda: wkv4(w, u, k, v)[0],
            [w, u, k, v],
        ),
        "RWKV-6": (
            lambda: loop6(r6, k6, v6, d6, u6),
            lambda: wkv6(r6, k6, v6, d6, u6)[0],
            [r6, k6, v6, d6, u6],
        ),
        "RWKV-7": (
            lambda: rwkv7_recurrent(r7, d7.exp(), k7, v7, a7, b7, s7)[0],
            lambda: wkv7(r7, d7, k7, v7, a7, b7, s7)[0],
            [r7, d7, k7, v7, a7, b7],
        ),
    }


def best(call: Callable[[], Any], seconds: float) -> float:
    call()
    start, times = time.perf_counter(), []
    while not times or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    print(
        f"{options.batch} × {options.tokens} tokens, {options.channels} channels, {torch.get_num_threads()} threads\n"
    )
    print("| | loop, ms | chunks, ms | faster | loop with gradients, ms | chunks, ms | faster |")
    print("|---" * 7 + "|")
    for name, (loop, ours, inputs) in cases(options.batch, options.tokens, options.channels).items():
        cells = []
        with torch.inference_mode():
            times = [best(call, options.seconds) for call in (loop, ours)]
        for tensor in inputs:
            tensor.requires_grad_()
        times += [best(lambda call=call: call().sum().backward(), options.seconds) for call in (loop, ours)]
        for slow, fast in (times[:2], times[2:]):
            cells += [f"{slow * 1e3:.1f}", f"{fast * 1e3:.1f}", f"{slow / fast:.1f}×"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
