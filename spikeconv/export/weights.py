"""The integers of a converted model, unpacked, for tool chains that know neither safetensors nor our packing.

    NAME.weight        int8 [out, in], or float32 [out, in] where weights stay float; in the basis of its rotation
    NAME.weight_scale  float32 [out]
    NAME.bias          float32 [out], where there is one
    NAME.input_*, NAME.output_*   what was calibrated, as in the checkpoint
    scheme             one JSON text: settings by NAME

A linear's output is weight_scale · input scale · (weight @ counts) + bias; what is not converted is not in it.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from spikeconv.errors import SpikeconvError
from spikeconv.nn import spike_linears

__all__ = ["weight_arrays"]


def weight_arrays(model: nn.Module) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a converted model by name, one at a time.

    Raises:
        SpikeconvError: the model is not converted.
    """
    linears = spike_linears(model)
    if not linears:
        raise SpikeconvError(f"This {type(model).__name__} is not converted: it has no integers.")
    schemes = {name: linear.scheme.model_dump(mode="json") for name, linear in linears.items()}
    yield "scheme", np.array(json.dumps(schemes))
    for name, linear in linears.items():
        is_float = linear.weight_scale is None
        yield f"{name}.weight", (linear.float_weight() if is_float else linear.integers()).cpu().numpy()
        for kind, tensor in linear.named_buffers(recurse=False):
            if kind not in ("weight", "weight_sum"):
                yield f"{name}.{kind}", tensor.cpu().numpy()
        if linear.bias is not None:
            yield f"{name}.bias", linear.bias.detach().float().cpu().numpy()
