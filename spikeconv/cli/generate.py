"""`spikeconv generate`."""

import time
from typing import Annotated, Any

import typer

from spikeconv.cli.console import err, print_json
from spikeconv.cli.fallbacks import load_telling
from spikeconv.cli.measured import measured, running
from spikeconv.cli.options import (
    AsJson,
    CacheDtype,
    Checkpoint,
    Device,
    Dtype,
    Execution,
    HeadBits,
    MemoryLimits,
    ModelParallel,
    OffloadFolder,
    Quiet,
    Seed,
    Temperature,
    TrustRemoteCode,
)
from spikeconv.cli.placing import place
from spikeconv.cli.reading import chosen_checkpoint
from spikeconv.errors import SpikeconvError
from spikeconv.placing import Placing

__all__ = ["generate"]


def generate(
    checkpoint: Checkpoint = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to continue.")] = "The capital of France is",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens to add at most.")] = 50,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    execution: Execution = None,
    head_bits: HeadBits = None,
    cache_dtype: CacheDtype = None,
    model_parallel: ModelParallel = False,
    memory_limits: MemoryLimits = None,
    offload_folder: OffloadFolder = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Continue a text with a converted model, token by token.

    Example: [cyan]spikeconv generate -p "Once upon a time" -n 40[/]
    """
    if not prompt.strip():
        raise SpikeconvError("The prompt is empty; give some text to continue with -p.")

    path = chosen_checkpoint(checkpoint, quiet)

    from spikeconv.evaluate.generate import generate_text

    placing = place(model_parallel, memory_limits, offload_folder)
    runs = running(device, dtype, execution, head_bits, cache_dtype)
    loaded, lost = load_telling(path, quiet, **runs, placing=placing, trust_remote_code=trust_remote_code)
    start = time.perf_counter()
    text, tokens = generate_text(
        loaded,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat=chat,
        stream=not as_json,
    )
    seconds = time.perf_counter() - start
    if as_json:
        sampling = {"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}
        what: dict[str, Any] = {"prompt": prompt, "chat": chat, **sampling, "spread": Placing.told(placing)}
        print_json(
            {
                "text": text,
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "fallbacks": lost,
                **measured(path, **runs, **what),
            }
        )
    elif not quiet:
        err.print("[note]{tokens} tokens, {rate:.1f} tokens/s[/]", tokens=tokens, rate=tokens / seconds)
