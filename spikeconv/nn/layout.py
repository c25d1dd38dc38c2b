"""Lays the weights of a model out for the kernels that will run: tiles for dense products, columns for events.

Events read only the columns of inputs that fired, but in scattered pieces; they win where few inputs fire and columns
are long. Which layers those are is decided once, at load, from the measured share of zeros and what either way costs
on this machine (`nn/costs.py`), since a weight is held in one layout only.
"""

import torch
from torch import nn

from spikeconv.nn.attention import attention_codes
from spikeconv.nn.costs import measured_costs
from spikeconv.nn.group import SpikeGroup
from spikeconv.nn.linear import checked_execution, spike_linears
from spikeconv.nn.memory import LargePages, MappedFiles
from spikeconv.ops.native import ready

__all__ = ["arrange_weights", "set_execution"]


def arrange_weights(model: nn.Module, pages: LargePages | None = None) -> None:
    """Arrange every converted linear of a model for the native kernels of its device, if they can be loaded.

    A model that is arranged piece by piece shares `pages`.
    """
    groups = {
        id(linear.group): linear.group
        for linear in spike_linears(model).values()
        if linear.weight_scale is not None
        and not any(member.weight.is_meta for member in linear.group.members)  # kept on disk, packed
        and ready(linear.weight.device.type).is_native
    }
    pages, files = pages or LargePages(), MappedFiles()
    for group in groups.values():
        execution = group.members[0].execution
        if execution == "events" or (execution == "auto" and _prefers_events(group)):
            before = [linear.weight for linear in group.members]
            _share_columns(group, pages)
            for weight in before:
                files.let_go(weight)
        elif execution != "unfold":
            for linear in group.members:
                if linear.layout != "tiles":
                    packed = linear.weight
                    linear.arrange("tiles")
                    linear.weight = pages.place(linear.weight) if linear.weight.is_cpu else linear.weight
                    files.let_go(packed)


def _prefers_events(group: SpikeGroup) -> bool:
    if not group.zero_share:  # not measured
        return False
    nibbles = group.encoder.scheme.weights.bits <= 4
    costs = measured_costs(str(group.members[0].weight.device), torch.get_num_threads(), nibbles)
    outputs = sum(linear.out_features for linear in group.members)
    return costs.prefer_events(group.zero_share, group.members[0].in_features, outputs // 2 if nibbles else outputs)


def set_execution(model: nn.Module, execution: str, attention: bool = True) -> None:
    """Choose how every converted linear of a model accumulates, and its attention over counts: see `EXECUTIONS`.

    The bits are the same for linears; attention adds floats, in another order.
    """
    for linear in spike_linears(model).values():
        linear.execution = checked_execution(execution)
    for code in attention_codes(model).values() if attention else ():
        code.execution = execution
    arrange_weights(model)


def _share_columns(group: SpikeGroup, pages: LargePages) -> None:
    """Columns of all members side by side in one tensor, so that an input's weights are contiguous."""
    for linear in group.members:
        linear.arrange("columns")
    widths = [linear.weight.shape[1] for linear in group.members]
    joined = torch.cat([linear.weight for linear in group.members], 1)
    joined = pages.place(joined) if joined.is_cpu else joined
    for linear, part in zip(group.members, joined.split(widths, 1), strict=True):
        linear.weight = part
