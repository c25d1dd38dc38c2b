"""Whether all executions of the converted linears give the same bits, and whether the model calls each linear."""

from typing import Any

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.families import output_of
from spikeconv.nn import SpikeLinear, set_execution, spike_linears
from spikeconv.progress import Track
from spikeconv.verification.codes import compare_codes, sampled
from spikeconv.verification.result import VerifyResult

__all__ = ["compare_executions"]


def compare_executions(model: Any, ids: Tensor, result: VerifyResult, track: Track) -> None:
    """Compare the accumulators of every linear, then the logits of the whole model, between executions.

    Those of some linears also between temporal codes.

    Args:
        model: a converted model.
        ids: token ids [batch, tokens] on its device.
        result: where to note what is found.
        track: progress display.
    """
    linears = spike_linears(model)
    result.linears = len(linears)
    before = next(iter(linears.values())).execution
    called: set[str] = set()
    chosen = sampled(list(linears))

    def compare(name: str, linear: SpikeLinear, x: Tensor, y: Tensor) -> None:
        called.add(name)
        if (encoding := linear.encoder(x)).spikes is None or linear.weight_scale is None:
            return
        accumulators = [linear.accumulate(encoding, execution) for execution in ops.EXECUTIONS]
        result.accumulators += accumulators[0].numel()
        expected = linear.with_bias(linear.scaled(accumulators[0], encoding), x.dtype)
        same = all(torch.equal(acc, accumulators[0]) for acc in accumulators)
        if not same or not torch.equal(y, linear.past_neurons(expected)):
            result.different_accumulators.append(name)
        if name in chosen and encoding.spikes.counts.numel():
            check = compare_codes(linear, encoding.spikes.counts)
            result.code_accumulators += check.accumulators
            result.different_codes += [f"{name} ({code})" for code in check.different]

    hooks = [
        linear.register_forward_hook(lambda module, args, y, name=name: compare(name, module, args[0], y))
        for name, linear in linears.items()
    ]
    with torch.inference_mode():
        try:
            expected = output_of(model(ids, use_cache=False))
        finally:
            for hook in hooks:
                hook.remove()
    result.uncalled = [name for name in linears if name not in called]
    try:  # weights that are arranged in inference mode could not train afterwards
        for execution in track(ops.EXECUTIONS, "comparing executions", len(ops.EXECUTIONS)):
            set_execution(model, execution, attention=False)
            with torch.inference_mode():
                logits = output_of(model(ids, use_cache=False))
            if not torch.equal(logits, expected):
                result.different_logits.append(execution)
    finally:
        set_execution(model, before, attention=False)
