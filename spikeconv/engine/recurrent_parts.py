"""Which modules of a loaded recurrent model the engine stands for, and what keeps it from that."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeconv.engine.obstacles import Obstacle, obstacle_around
from spikeconv.families import DataMixingBlock, RecurrentBlock, family_of, own_name
from spikeconv.nn import SpikeLinear

__all__ = ["Block", "Role", "blocks_of", "is_recurrent", "recurrent_obstacle"]

BASE = {"embeddings", "blocks", "ln_out"}
"""The modules of a model without its head."""


class Role(NamedTuple):
    """A converted linear, and where the vector is that mixes its input with the token before, if one does."""

    linear: SpikeLinear
    owner: Any
    mix: str | None


class Block(NamedTuple):
    """The modules of one block that the engine reads.

    Attributes:
        norms: in front of attention and feed-forward, and behind the heads, if there is one.
        roles: the linears of both, in order of execution.
        attention: has the vectors of the recurrence.
        names: of all of these.
    """

    norms: tuple[Any, ...]
    roles: tuple[Role, ...]
    attention: Any
    names: RecurrentBlock

    def parameter(self, name: str) -> Tensor:
        """One of the attention's."""
        found: Tensor = self.attention._parameters[name]
        return found

    @property
    def own(self) -> tuple[str, ...]:
        """The names of all parameters of its attention that are no linear's."""
        names = self.names
        mixes = (role.mix for role in self.roles if role.mix is not None and role.owner is self.attention)
        if not isinstance(names, DataMixingBlock):
            return names.decay, names.bonus, *mixes
        low_rank = names.first, names.down, names.up, names.decay_down, names.decay_up
        return names.decay, names.bonus, *low_rank, *names.mixes


def is_recurrent(model: Any) -> bool:
    """Whether a model is of a family of such blocks."""
    return any(True for _ in _blocks(model))


def blocks_of(model: Any) -> tuple[Any, list[Block]]:
    """The norm in front of all blocks, and the blocks, of a model without an obstacle."""
    found = list(_blocks(model))
    block, names = found[0]
    return block._modules[names.entry], [_parts(*each) for each in found]


def recurrent_obstacle(model: Any) -> Obstacle | None:
    """What keeps a recurrent model on a CPU from the engine; None if nothing does."""
    blocks, config = list(_blocks(model)), model.config
    if (why := _is_strange(model, *blocks[0])) is not None:
        return Obstacle(why, is_choice=False)
    if (found := obstacle_around(model, len(blocks))) is not None:
        return found
    if (every := getattr(config, "rescale_every", 0)) > 0:
        return Obstacle(f"rescale_every is {every}, which halves weights in place", True)
    if config.attention_hidden_size != config.hidden_size:
        return Obstacle("attention_hidden_size is not hidden_size", True)
    if not _is_norm(model.base_model.ln_out):
        return Obstacle("its last norm is no LayerNorm with weight and bias, in float32", True)
    unlike = [why for index, each in enumerate(blocks) if (why := _is_unlike(index, *each)) is not None]
    return Obstacle(f"in {len(unlike)} of {len(blocks)} layers {unlike[0]}", True) if unlike else None


def _blocks(model: Any) -> Iterator[tuple[Any, RecurrentBlock]]:
    for stack in family_of(model).stacks:
        if stack.recurrent is not None:
            for block in model.get_submodule(own_name(model, stack.layers)):
                yield block, stack.recurrent


def _parts(block: Any, names: RecurrentBlock) -> Block:
    modules = block._modules
    attention, feed_forward = modules[names.attention], modules[names.feed_forward]
    norms = [modules[names.attention_norm], modules[names.feed_forward_norm]]
    if isinstance(names, DataMixingBlock):
        norms.append(attention._modules[names.head_norm])
    halves = ((attention, names.linears), (feed_forward, names.channel_linears))
    roles = (Role(half._modules[linear], half, mix) for half, linears in halves for linear, mix in linears)
    return Block(tuple(norms), tuple(roles), attention, names)


def _is_strange(model: Any, block: Any, names: RecurrentBlock) -> str | None:
    """What the classes do otherwise than the engine expects; None if all is as it was known."""
    base = model.base_model
    if set(base._modules) != BASE:
        return f"this {type(base).__name__} is built of other modules"
    for module in (base, block):
        if not type(module).__module__.startswith(names.stack_room):
            return f"{type(module).__name__} is not the class that is known"
    halves = [block._modules.get(name, block) for name in (names.attention, names.feed_forward)]
    if any(type(half).__module__ != names.room for half in halves):
        return f"{type(halves[0]).__name__} and {type(halves[1]).__name__} are not layers that are known"
    found = set(block._modules) - {names.entry}, *(set(half._modules) for half in halves)
    if found != names.modules or names.entry not in block._modules:
        return f"this {type(block).__name__} is built of other modules"
    return None


def _is_unlike(index: int, block: Any, names: RecurrentBlock) -> str | None:
    """What a block does that the engine does not; None if it is fully converted and nothing is."""
    modules, parts = block._modules, _parts(block, names)
    norms = [*parts.norms[:2], *([] if index else [modules[names.entry]])]
    linears = [role.linear for role in parts.roles]
    vectors = [parts.parameter(name) for name in parts.own]
    vectors += [role.owner._parameters[role.mix] for role in parts.roles if role.mix is not None]
    halves = modules[names.attention], modules[names.feed_forward]
    places = {vars(each).get(names.place, index) for each in (block, *halves)}
    if places != {index}:
        return f"{names.place} is not its place"
    if not all(map(_is_norm, norms)) or not all(map(_is_plain, vectors)):
        return "a norm is no LayerNorm with weight and bias, or a vector is not in float32"
    if isinstance(names, DataMixingBlock) and not _is_norm_of_heads(parts.norms[2], parts.attention.heads):
        return "the norm of its heads is no GroupNorm with weight and bias, in float32"
    if not all(isinstance(linear, SpikeLinear) for linear in linears):
        return "not every linear is converted"
    if any(linear.group.members != [linear] for linear in linears):
        return "linears share an input"
    if any(linear.execution != "auto" for linear in linears):
        return f"the execution was set to {linears[0].execution!r}, whose bits are those of the modules"
    if any(linear.group.plan() is None for linear in linears):
        return "its encoders or executions run step by step"
    return None


def _is_norm(module: Any) -> bool:
    """Whether a module is a LayerNorm as the engine reads it."""
    return type(module) is nn.LayerNorm and _is_plain(module.weight) and _is_plain(module.bias)


def _is_norm_of_heads(module: Any, heads: int) -> bool:
    is_one = isinstance(module, nn.GroupNorm) and module.num_groups == heads
    return is_one and _is_plain(module.weight) and _is_plain(module.bias)


def _is_plain(vector: Tensor | None) -> bool:
    return vector is not None and vector.dtype == torch.float32 and vector.is_contiguous()
