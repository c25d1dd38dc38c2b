"""Whether the engine computes what a recurrent model's modules do: to the bit where no floats are added up."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from spikeconv.engine import MIXED, RecurrentEngine, RecurrentSequence, blocks_of
from spikeconv.models.shift import shifted
from spikeconv.models.wkv import WkvState, wkv4
from spikeconv.verification.result import VerifyResult, relative_error

__all__ = ["compare_recurrent"]

LINEARS = ("key", "value", "receptance", "output", "channel key", "channel receptance", "channel value")
"""Names of the outputs of the linears of a block, in the order of what they read."""


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
        engine = RecurrentEngine(model)
        whole, every = [RecurrentSequence(len(tokens))], torch.arange(len(tokens))
        logits = engine.forward(tokens, whole, engine.state(1), every, logits=engine.has_head)
        x, errors = entry(base.embeddings(tokens)), []
        state = engine.state(1)
        found = engine.layer_by_layer(tokens, whole, state)
        for index, (was, block) in enumerate(zip(found, blocks, strict=True)):
            errors.append(relative_error(was["input"], x))
            for norm, read, name in zip(block.norms, ("input", "middle"), ("normed", "channel normed"), strict=True):
                errors.append(relative_error(was[name], norm(was[read])))
            same = {"middle": torch.equal(was["input"] + was["output"], was["middle"])}
            same["product"] = torch.equal(was["channel key"].relu().square(), was["product"])
            for role, name, read in zip(block.roles, LINEARS, MIXED, strict=True):
                (y,) = role.linear.group.products(was[read].contiguous(), [role.linear])
                same[name] = torch.equal(was[name], y)
                if role.mix is not None:
                    normed = was["channel normed" if name.startswith("channel") else "normed"]
                    before = shifted(normed[None], None)[0]
                    errors.append(relative_error(was[read], before.lerp(normed, role.owner.get_parameter(role.mix)[0])))
            decay, bonus = (block.attention.get_parameter(name) for name in (block.decay, block.bonus))
            y, after = _token_by_token(decay, bonus, was["key"], was["value"])
            errors.append(relative_error(was["gated"], was["receptance"].sigmoid() * y))
            shifts = zip(state[:2], ("channel normed", "normed"), strict=True)
            same["state"] = all(torch.equal(part[0, :, index], was[name][-1]) for part, name in shifts)
            errors += [relative_error(part[0, :, index], new[0]) for part, new in zip(state[2:], after, strict=True)]
            x = was["middle"] + was["channel receptance"].sigmoid() * was["channel value"]
            result.engine_outputs += sum(values.numel() for values in was.values())
            result.different_in_engine += [f"layer {index} ({name})" for name, equal in same.items() if not equal]
        last, head = base.ln_out(x), model.get_output_embeddings()
        errors.append(relative_error(logits, last if head is None else linear(last, head.weight, head.bias)))
        result.engine_error = max(errors)


def _token_by_token(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, WkvState]:
    """`wkv4` of [tokens, channels] as a model decodes: an exponent that many decays are taken off rounds as often."""
    outputs, state = [], None
    for k, v in zip(key, value, strict=True):
        y, state = wkv4(decay, bonus, k[None, None], v[None, None], state)
        outputs.append(y[0, 0])
    assert state is not None
    return torch.stack(outputs), state
