"""Linears as graphs of NIR (Pedersen et al. 2024), whose integrators end at the model's own accumulators.

    NAME.input ─▶ NAME.linear ─▶ NAME.integrator ─▶ NAME.scale ─▶ NAME.output
    Input [in]    Linear W       I, r = 1           Scale s_w     Output [out]

Time is slots, dt = 1. In slot t the input is Σ of the values of its events, and an event's value is what its slot is
worth times its sign, so that one plain integrator reads every temporal code; what neuron reads the signs alone is told
beside the code. It is set to zero before each token and read after the last slot: then it holds acc, and the linear's
output is acc · s_w · scale[token] + bias. Where counts have a zero point z, one more input has the row sums of W as
weights and one event of value -z in the first slot.

Weights are integers in float32 (exactly; importers make parameters of them). A token's scale and the bias are no nodes,
as a node has the same values for all tokens.
"""

import json
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeconv.codecs import MultiheadCodec
from spikeconv.errors import SpikeconvError
from spikeconv.export.encoder import MEMBRANES, encoder_steps
from spikeconv.export.events import places
from spikeconv.export.files import whole
from spikeconv.export.trains import Trains
from spikeconv.nn import SpikeLinear, spike_linears

__all__ = ["nir_graph", "write_nir"]

FORMAT = "spikeconv.nir.1"

HOW = (
    "One chain for each linear, Input -> Linear -> I -> Scale -> Output; time is slots, dt = 1. For each token: set I "
    "to zero; in slot t the input is the sum of the values of the events of slot t, and I adds what Linear gives. "
    "After the last slot I holds the integer accumulators, and the linear's output is Output * scale[token] + bias. "
    "The metadata of an Input says how inputs become events (encoder: steps in order; code: slots and their weights); "
    "`golden` holds events (value = slot weight * sign), accumulators and outputs of a text."
)


def nir_graph(model: nn.Module, trains: dict[str, Trains], about: dict[str, Any]) -> nir.NIRGraph:
    """A `nir.NIRGraph` with a chain for each of some linears, and what they were sent as golden traces.

    Args:
        model: a converted model.
        trains: what linears were sent, by name.
        about: what the model is, plain values.

    Raises:
        SpikeconvError: the weights of a linear stay float.
    """
    linears = spike_linears(model)
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    for name, train in trains.items():
        chain = [f"{name}.{part}" for part in ("input", "linear", "integrator", "scale", "output")]
        nodes.update(zip(chain, _chain(name, linears[name], train), strict=True))
        edges += pairwise(chain)
    return nir.NIRGraph(nodes, edges, metadata={"format": FORMAT, "how": HOW, "about": json.dumps(about)})


def write_nir(path: Path, graph: nir.NIRGraph) -> int:
    """Write a graph as `nir.read` reads it; returns how many nodes it has.

    Raises:
        OSError: the file cannot be written; an earlier one is then as it was.
    """
    buffer = BytesIO()
    nir.write(buffer, graph)
    with whole(path) as scratch:
        scratch.write_bytes(buffer.getbuffer())
    return len(graph.nodes)


def _chain(name: str, linear: SpikeLinear, train: Trains) -> list[Any]:
    """The five nodes of a linear."""
    if linear.weight_scale is None:
        raise SpikeconvError(f"{name} has float weights, not integers; convert with --set weights.bits=4, for example.")
    steps, arrays = encoder_steps(linear)
    weight, golden = linear.integers().float(), _events(train)
    if train.zero_point is not None:
        weight = torch.cat((weight, weight.sum(1, keepdim=True)), 1)
    entry = {
        "encoder": json.dumps(steps),
        "code": json.dumps(_code(linear, train)),
        "slot_weight": np.array(train.slot_weights, np.int64),
        **arrays,
        "golden": {"x": _floats(train.inputs), **golden, "scale": _floats(train.scale)},
    }
    products = [linear.product(encoding).reshape(-1, linear.out_features) for encoding in train.encodings]
    leaving: dict[str, Any] = {"golden": {"y": _floats(linear.with_bias(torch.cat(products), torch.float32))}}
    if linear.bias is not None:
        leaving["bias"] = _floats(linear.bias)
    reached = {"accumulator": train.accumulators(linear).cpu().numpy()}
    return [
        nir.Input({"input": np.array([weight.shape[1]])}, metadata=entry),
        nir.Linear(weight.cpu().numpy()),
        nir.I(np.ones(linear.out_features, np.float32), metadata={"golden": reached}),
        nir.Scale(_floats(linear.weight_scale)),
        nir.Output({"output": np.array([linear.out_features])}, metadata=leaving),
    ]


def _code(linear: SpikeLinear, train: Trains) -> dict[str, Any]:
    """How a count is sent."""
    code = linear.encoder.code
    more: dict[str, Any] = {}
    if not isinstance(linear.encoder.codec, MultiheadCodec):
        more["membrane_without_slot_weights"] = MEMBRANES[code.membrane]
    if train.zero_point is not None:
        more["zero_point_input"] = linear.in_features
    return {"kind": code.name, "slots": len(train.slot_weights), **more}


def _events(train: Trains) -> dict[str, NDArray[Any]]:
    """Columns token, slot, neuron and value, in the order of a clock, with those of zero points."""
    columns = [each.long().cpu() for each in places(train.spikes)]
    columns[3] *= torch.tensor(train.slot_weights)[columns[1]]
    if train.zero_point is not None:
        token = train.zero_point.nonzero().flatten().cpu()
        beside = [token, torch.zeros_like(token), torch.full_like(token, train.spikes.shape[-1])]
        beside.append(-train.zero_point.long().cpu()[token])
        columns = [torch.cat(pair) for pair in zip(columns, beside, strict=True)]
        order = np.lexsort([each.numpy() for each in columns[2::-1]])
        columns = [each[order] for each in columns]
    names = {"token": np.int32, "slot": np.int32, "neuron": np.int32, "value": np.int64}
    return {name: each.numpy().astype(dtype) for (name, dtype), each in zip(names.items(), columns, strict=True)}


def _floats(values: Tensor) -> NDArray[Any]:
    return values.detach().float().cpu().numpy()
