"""Converted tiny models in the engine, and the same without it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from spikeconv.integrations.memory import memory_keyword, memory_of

Converted = Callable[..., Path]

FINE = {"bits": "8-8"}
"""Counts so fine that one that moves with the order of a float sum moves a logit by less than CLOSE."""

CLOSE = 0.06
CLOSE_IN_THE_MEAN = 0.004
"""Of the largest logit. Few counts move, so most logits are far closer than the worst."""


COUNTED = (
    {"kv_bits": 4},
    {"kv_bits": 2, "kv_range": "asymmetric"},
    {"kv_bits": 8, "kv_group": 4},
    {"kv_bits": 5, "kv_range": "asymmetric", "kv_group": 2},
)
"""Keys and values that are counts."""


def load(path: Path, **arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **arguments).eval()


def long_way(model: Any) -> Any:
    """A copy that has only the forward of its classes."""
    plain = copy.deepcopy(model)
    plain.base_model.__dict__.pop("forward", None)
    return plain


def close(one: Tensor, other: Tensor) -> bool:
    apart, largest = (one - other).abs(), other.abs().max()
    return bool(apart.max() <= CLOSE * largest and apart.mean() <= CLOSE_IN_THE_MEAN * largest)


def step_by_step(model: Any, ids: Tensor, steps: int, mask: Tensor | None = None) -> list[Tensor]:
    """Logits of a prompt, and of some tokens one by one."""
    with torch.inference_mode():
        out = model(ids, use_cache=True, attention_mask=mask)
        logits = [out.logits]
        for step in range(steps):
            mask = mask if mask is None else torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
            token = torch.full_like(ids[:, :1], step + 3)
            memory = {memory_keyword(model): memory_of(model, out)}
            out = model(token, **memory, use_cache=True, attention_mask=mask)
            logits.append(out.logits)
    return logits
