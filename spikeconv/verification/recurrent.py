"""Whether the engine computes what a recurrent model's modules do: to the bit where no floats are added up."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from spikeconv.engine import DataMixingEngine, RecurrentEngine, RecurrentSequence, blocks_of, recurrent_engine
from spikeconv.models.shift import shifted
from spikeconv.models.wkv import WkvState, wkv4, wkv6
from spikeconv.verification.result import VerifyResult, relative_error

__all__ = ["compare_recurrent"]

Pairs = list[tuple[Tensor, Tensor]]
"""What was found, and what the modules give."""


def compare_recurrent(model: Any, ids: Tensor, result: VerifyResult) -> None:
    """Run a text through the engine, and what it computed on the way through the modules, block by block.

    Given the same inputs, the outputs of linears must be the same bits, and so are counts and accumulators, and what is
    only added once or squared. Norms, token shifts, the recurrence and the logits are compared relative to the largest
    number of each.

    Args:
        model: a converted model that the recurrent engine runs.
        ids: token ids [1, tokens].
        result: where to note what is found.
    """
    tokens, base = ids[0], model.base_model
    entry, blocks = blocks_of(model)
    with torch.inference_mode():
        engine = recurrent_engine(model)
        whole, every, state = [RecurrentSequence(len(tokens))], torch.arange(len(tokens)), engine.state(1)
        logits = engine.forward(tokens, whole, engine.state(1), every, logits=engine.has_head)
        x = entry(base.embeddings(tokens))
        found = engine.layer_by_layer(tokens, whole, state)
        for index, (was, block) in enumerate(zip(found, blocks, strict=True)):
            pairs = [(was["input"], x), *_between(engine, block, was, _layer(state, index))]
            same = {"middle": torch.equal(was["input"] + was["output"], was["middle"])}
            same["product"] = torch.equal(was["channel key"].relu().square(), was["product"])
            same["state"] = torch.equal(state[0][0, :, index], was["channel normed"][-1])
            same["state"] &= torch.equal(state[1][0, :, index], was["normed"][-1])
            for role, name, read in zip(block.roles, _outputs(engine), engine.reads_of, strict=True):
                (y,) = role.linear.group.products(was[read].contiguous(), [role.linear])
                same[name] = torch.equal(was[name], y)
            x = was["middle"] + was["channel receptance"].sigmoid() * was["channel value"]
            result.engine_outputs += sum(values.numel() for values in was.values())
            result.different_in_engine += [f"layer {index} ({name})" for name, equal in same.items() if not equal]
            result.engine_error = max(result.engine_error or 0, *(relative_error(*pair) for pair in pairs))
        last, head = base.ln_out(x), model.get_output_embeddings()
        error = relative_error(logits, last if head is None else linear(last, head.weight, head.bias))
        result.engine_error = max(result.engine_error or 0, error)


def _outputs(engine: RecurrentEngine) -> list[str]:
    """Names of the outputs of the linears of a block, in the order of what they read."""
    own = {"gated": "output", "product": "channel value"}
    return [own.get(read, read.removesuffix(" input")) for read in engine.reads_of]


def _layer(state: list[Tensor], index: int) -> list[Tensor]:
    """The sums, or matrices, of one block."""
    return [state[2][index]] if len(state) == 3 else [part[:, :, index] for part in state[2:]]


def _between(engine: RecurrentEngine, block: Any, was: dict[str, Tensor], sums: list[Tensor]) -> Pairs:
    """What a block adds up in floats."""
    pairs = [(was["normed"], block.norms[0](was["input"])), (was["channel normed"], block.norms[1](was["middle"]))]
    for role, read in zip(block.roles, engine.reads_of, strict=True):
        if role.mix is not None:
            normed = was["channel normed" if read.startswith("channel") else "normed"]
            before, mix = shifted(normed[None], None)[0], role.owner.get_parameter(role.mix)[0]
            mixed = normed.lerp(before, mix) if block.names.of_before else before.lerp(normed, mix)
            pairs.append((was[read], mixed))
    if isinstance(engine, DataMixingEngine):
        return [*pairs, *_mixed_by_data(block, was), *_heads(engine, block, was, sums)]
    decay, bonus = block.parameter(block.names.decay), block.parameter(block.names.bonus)
    y, after = _token_by_token(decay, bonus, was["key"], was["value"])
    return [*pairs, (was["gated"], was["receptance"].sigmoid() * y), *zip(sums, after, strict=True)]


def _token_by_token(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, WkvState]:
    """`wkv4` of [tokens, channels] as a model decodes: an exponent that many decays are taken off rounds as often."""
    outputs, state = [], None
    for k, v in zip(key, value, strict=True):
        y, state = wkv4(decay, bonus, k[None, None], v[None, None], state)
        outputs.append(y[0, 0])
    assert state is not None
    return torch.stack(outputs), state


def _mixed_by_data(block: Any, was: dict[str, Tensor]) -> Pairs:
    """What decay, key, value, receptance and gate of RWKV-6 are computed of, and the decay."""
    names, own, x = block.names, block.parameter, was["normed"]
    change = shifted(x[None], None)[0] - x
    low = torch.tanh((x + change * own(names.first)[0]) @ own(names.down)).unflatten(-1, (5, -1))
    more = torch.einsum("tnr,nrh->nth", low, own(names.up))
    reads = ("decay input", "key input", "value input", "receptance input", "gate input")
    pairs = [
        (was[read], x + change * (own(name)[0] + by)) for read, name, by in zip(reads, names.mixes, more, strict=True)
    ]
    log = own(names.decay)[0] + torch.tanh(was["decay input"] @ own(names.decay_down)) @ own(names.decay_up)
    return [*pairs, (was["decay"], (-log.exp()).exp())]


def _heads(engine: DataMixingEngine, block: Any, was: dict[str, Tensor], sums: list[Tensor]) -> Pairs:
    """What RWKV-6's output projection reads, and the matrices behind the last token."""
    names = ("receptance", "key", "value", "decay")
    r, k, v, decay = (was[name].unflatten(-1, (engine.heads, engine.head_size))[None] for name in names)
    y, after = wkv6(r, k, v, decay.log(), block.parameter(block.names.bonus))
    gated = block.norms[2](was["heads"]) * silu(was["gate"])
    return [(was["heads"], y[0].flatten(1)), (sums[0], after), (was["gated"], gated)]
