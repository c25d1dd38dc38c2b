"""A converted linear inside one of vLLM's: packed tensors are loaded, arranged, and computed with by a `SpikeLinear`.

    column-parallel (q|k|v, gate|up)    x is whole on every rank ─▶ encode once ─▶ this rank's rows
    row-parallel (o, down)              x is gathered ─▶ encode ─▶ this rank's rows ─▶ vLLM adds them to the others'

An encoder needs a whole input: the rotation mixes it, and the scale is that of a token. So a row-parallel linear holds
rows of its weight, not columns, and what is added up is rows beside zeros: the same numbers as on one rank.
"""

from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.linear import LinearMethodBase, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.utils import set_weight_attrs

from spikeconv.errors import SpikeconvError
from spikeconv.integrations.loading import check_tensors
from spikeconv.nn import SpikeGroup, SpikeLinear, arrange_weights, buffer_shapes
from spikeconv.nn.encoder import CALIBRATED
from spikeconv.nn.memory import LargePages
from spikeconv.serving.layers import FusedLinear
from spikeconv.serving.loading import Arrivals, Part

__all__ = ["SpikeLinearMethod"]


class SpikeLinearMethod(LinearMethodBase):  # type: ignore[misc]  # vLLM need not be installed
    """The quantization method of one of vLLM's linears; all of a model lay their weights into the same `pages`.

    While it loads, the tensors are the layer's parameters, as vLLM asks for; afterwards they are those of
    `layer.spikes`, a `SpikeLinear` whose outputs are those of all members.
    """

    def __init__(self, fused: FusedLinear, pages: LargePages) -> None:
        self.fused, self.pages = fused, pages

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Give a layer the checkpoint's tensors, empty."""
        del input_size_per_partition, output_size, extra_weight_attrs  # rows are split, and loaded by `Arrivals`
        parts = parts_of(layer, output_partition_sizes)
        outputs = sum(part.rows for part in parts.values())
        layer.arrivals = Arrivals(self.fused.name, parts)
        for kind, (shape, dtype) in buffer_shapes(input_size, outputs, self.fused.scheme, self.fused.folds).items():
            tensor = nn.Parameter(torch.empty(shape, dtype=dtype or params_dtype), requires_grad=False)
            shared = kind in CALIBRATED
            axis = 1 if kind == "weight_sum" and len(shape) > 1 else 0
            loader = layer.arrivals.into_shared(kind) if shared else layer.arrivals.into_rows(kind, axis)
            set_weight_attrs(tensor, {"weight_loader": loader})
            layer.register_parameter(kind, tensor)
        layer.sizes = input_size, outputs

    def process_weights_after_loading(self, layer: Any) -> None:
        """Check what was loaded, and arrange it for the kernels of its device."""
        layer.arrivals.check_whole()
        scheme, (inputs, outputs) = self.fused.scheme, layer.sizes
        group = SpikeGroup(inputs, scheme)
        group.zero_share = self.fused.zero_share
        has_bias = layer.bias is not None and not layer.skip_bias_add
        with torch.device("meta"):
            linear = SpikeLinear(
                inputs, outputs, scheme, group, bias=has_bias, dtype=layer.params_dtype, folds=self.fused.folds
            )
        for kind, empty in tuple(linear._buffers.items()):
            if empty is not None:
                setattr(linear, kind, getattr(layer, kind).data)
                delattr(layer, kind)
        if has_bias:
            (part,) = layer.arrivals.parts.values() if gathers(layer) else (None,)
            bias = layer.bias.data if part is None else layer.bias.data.narrow(0, part.there, part.rows)
            linear.bias = nn.Parameter(bias, requires_grad=False)
        try:
            check_tensors(linear)
        except SpikeconvError as error:
            raise SpikeconvError(f"{self.fused.name}: {error}") from None
        arrange_weights(linear, self.pages)
        layer.spikes = linear
        del layer.arrivals

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """This rank's outputs [..., outputs] of x [..., inputs of this rank]; the bias is in them."""
        del bias  # of a row-parallel linear vLLM gives it to the first rank alone
        if not gathers(layer):
            return layer.spikes(x)  # type: ignore[no-any-return]
        y = layer.spikes(tensor_model_parallel_all_gather(x))
        before = layer.tp_rank * y.shape[-1]
        return nn.functional.pad(y, (before, layer.output_size - before - y.shape[-1]))


def gathers(layer: Any) -> bool:
    """Whether a layer's input is spread over several ranks."""
    return isinstance(layer, RowParallelLinear) and layer.tp_size > 1


def parts_of(layer: Any, sizes: list[int]) -> dict[Any, Part]:
    """The rows of each member that this rank holds, by vLLM's shard id.

    Args:
        layer: one of vLLM's linears.
        sizes: its `output_partition_sizes`.
    """
    rank, ranks = layer.tp_rank, layer.tp_size
    whole: dict[Any, int]
    begins: dict[Any, int]
    if gathers(layer):
        rows = layer.output_size // ranks
        return {None: Part(layer.output_size, rows, rank * rows, 0)}
    if isinstance(layer, QKVParallelLinear):
        key_rank = rank // layer.num_kv_head_replicas
        key_rows = layer.total_num_kv_heads * layer.head_size
        whole = {"q": layer.total_num_heads * layer.head_size, "k": key_rows, "v": key_rows}
        begins = {"q": rank, "k": key_rank, "v": key_rank}
    else:
        names: list[Any] = list(range(len(sizes))) if len(sizes) > 1 else [None]
        whole = {name: size * ranks for name, size in zip(names, sizes, strict=True)}
        begins = dict.fromkeys(names, rank)
    parts, here = {}, 0
    for (name, rows), size in zip(whole.items(), sizes, strict=True):
        parts[name] = Part(rows, size, begins[name] * size, here)
        here += size
    return parts
