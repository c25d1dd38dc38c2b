"""A linear layer driven by spikes.

    y = s · s_w · (acc - z · Σ_i W[:, i]) + b,   acc = Σ_i k_i W[:, i] in int32

with k, s, z from the encoder and W, s_w the rotated integer weight and its scale per output channel.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.choices import check_execution
from spikeconv.codecs import Neuron
from spikeconv.config import ElasticInputs, GifInputs, LifInputs, LinearScheme, NeuronInputs, Outputs
from spikeconv.errors import SpikeconvError
from spikeconv.nn.encoder import CALIBRATED, Encoder, Encoding
from spikeconv.nn.firing import fired
from spikeconv.nn.group import SpikeGroup
from spikeconv.weights import dequantize

__all__ = ["EXECUTIONS", "SpikeLinear", "checked_execution", "spike_linears"]

EXECUTIONS = ("auto", *ops.EXECUTIONS)

UNPACKED = 1 << 18
"""Weights that are unpacked at once to be added up."""

FLOAT32 = ("weight_scale", "input_threshold", "input_balance", "input_alpha", "output_alpha")
"""Buffers that stay in float32 whatever the model's dtype."""


class SpikeLinear(nn.Module):
    """Drop-in replacement of `nn.Linear` for one converted layer.

    Buffers, also the checkpoint's keys:
        weight: uint8 [out, ceil(in/8), bits] packed, or float [out, 1, in] when weights stay float. While the model
            runs it may be arranged for the native kernels (`arrange`); state dicts always hold it packed.
        weight_scale: float32 [out], kept in float32 whatever the model's dtype (integer weights only).
        weight_sum: int32 [out], row sums that the zero point multiplies (asymmetric counts only); [2, out] where
            channels are salient, of those that are not and of those that are.
        input_threshold: float32 [1], τ of membrane clipping, the same in all linears of a group (clipped inputs only).
        input_balance: float32 [in], the factors d of a balanced input that nothing in front could take in, the same in
            all linears of a group (where `folds` is false).
        input_salient: uint8 [in], 1 in the channels that have more bits (codec gif only), the same in all of a group.
        input_alpha: float32 [T], what a spike of the neurons in front is worth in each time step, the same in all of a
            group (codecs elastic and lif only).
        output_salient: uint8 [out], the salient channels of the outputs, where they are keys or values that have some.
        output_alpha: float32 [T], what a spike of the neurons behind is worth, where the outputs are keys or values
            that pass some.

    The output has the dtype of the input; everything in between is int32 and float32.
    """

    weight: Tensor
    weight_scale: Tensor | None
    weight_sum: Tensor | None
    input_threshold: Tensor | None
    input_balance: Tensor | None
    input_salient: Tensor | None
    input_alpha: Tensor | None
    output_salient: Tensor | None
    output_alpha: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: LinearScheme,
        group: SpikeGroup,
        *,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        folds: bool = True,
        outputs: Outputs = "plain",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.scheme, self.group = scheme, group
        group.members.append(self)
        self.execution = default_execution()
        shapes = buffer_shapes(in_features, out_features, scheme, folds, outputs)
        for name in ("weight", "weight_scale", "weight_sum", *CALIBRATED, "output_salient", "output_alpha"):
            spec = shapes.get(name)
            buffer = torch.empty(spec[0], dtype=spec[1] or dtype) if spec else None
            self.register_buffer(name, buffer)
        empty = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None
        self.register_parameter("bias", empty)
        for name in CALIBRATED:
            if self._buffers[name] is not None:
                group.encoder.held_by.setdefault(name, self)

    @property
    def encoder(self) -> Encoder:
        """What encodes its input; shared by the group."""
        return self.group.encoder

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out_features] of x [..., in_features], in the dtype of x."""
        y = self.group.output(self, x)
        return y if self._buffers["output_alpha"] is None else self.past_neurons(y)

    def past_neurons(self, y: Tensor) -> Tensor:
        """An output [..., out] as the spikes of the neurons behind it, in its dtype; itself if there are none."""
        inputs, alpha = self.scheme.inputs, self._buffers["output_alpha"]
        if alpha is None:
            return y
        assert isinstance(inputs, ElasticInputs | LifInputs)
        return fired(y, alpha, Neuron.of(inputs, leak=0.0)).to(y.dtype)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """weight, weight_scale, weight_sum and bias."""
        # Straight from the dictionaries: at one token, looking up attributes of modules takes as long as the product.
        buffers = self._buffers
        return buffers["weight"], buffers["weight_scale"], buffers["weight_sum"], self._parameters["bias"]

    def cells(self) -> list[tuple[dict[str, Any], str]]:
        """Where its four tensors are looked up."""
        return [
            *((self._buffers, name) for name in ("weight", "weight_scale", "weight_sum")),
            (self._parameters, "bias"),
        ]

    def versions(self) -> int:
        """A number that grows with every change in place of its tensors (inference tensors do not tell)."""
        buffers, bias = self._buffers, self._parameters["bias"]
        weight, scale, row_sum = buffers["weight"], buffers["weight_scale"], buffers["weight_sum"]
        try:
            total = 0 if weight is None else weight._version
            total += (0 if scale is None else scale._version) + (0 if row_sum is None else row_sum._version)
            for name in CALIBRATED:
                total += 0 if (calibrated := buffers[name]) is None else calibrated._version
            return total + (0 if bias is None else bias._version)
        except RuntimeError:
            return -1

    def product(self, encoding: Encoding) -> Tensor:
        """W û [..., out] float32 of an encoding, without the bias and by itself."""
        if encoding.spikes is None or self.weight_scale is None:
            return self.float_product(encoding.decode())
        return self.scaled(self.accumulate(encoding, self.group.members[0].execution), encoding)

    def scaled(self, acc: Tensor, encoding: Encoding) -> Tensor:
        """The product [..., out] float32 that accumulators stand for."""
        assert encoding.spikes is not None and self.weight_scale is not None
        return encoding.spikes.total(acc.float() * encoding.spikes.scale * self.weight_scale)

    def float_product(self, potential: Tensor) -> Tensor:
        """W u [..., out] float32 of a potential [..., in] float32, as floats."""
        return potential @ self.float_weight().mT

    def accumulate(self, encoding: Encoding, execution: str) -> Tensor:
        """The int32 accumulators [..., out] ([planes, ..., out]) of an encoding with spikes, zero point taken off."""
        assert encoding.spikes is not None and self.encoder.codec is not None
        counts, zero, sums = encoding.spikes.planes(), encoding.spikes.zero_point, self.weight_sum
        largest, code = self.encoder.codec.largest_count, self.encoder.code
        settings = ops.ProductSettings(self.scheme.weights.bits, largest, execution, code.membrane)
        digits = code.digits(largest).to(counts.device) if execution == "unfold" else None
        weight = self._packed() if (execution, self.layout) == ("events", "tiles") else self.weight
        acc: Tensor = ops.accumulate(counts, weight, digits, self.out_features, settings.table())
        if zero is None or sums is None:
            return acc
        return acc - zero * (sums if sums.dim() == 1 else sums.view(len(sums), *[1] * (acc.dim() - 2), -1))

    def with_bias(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """The output of a product [..., out] float32."""
        return (y if self.bias is None else y + self.bias.float()).to(dtype)

    def float_weight(self) -> Tensor:
        """The rotated weight that the integers stand for, [out, in] float32."""
        if self.weight_scale is None:
            return self.weight.squeeze(1).float()
        return dequantize(self.integers(), self.weight_scale)

    def integers(self) -> Tensor:
        """The integer weight, int8 [out, in], whatever its layout."""
        return ops.unpack_arranged(self.weight, self.out_features, self.in_features, self.scheme.weights.bits)

    def arrange(self, layout: ops.Layout) -> None:
        """Lay the integer weight out for the native kernels, or pack it again; float weights stay as they are."""
        if self.weight_scale is None or self.weight.is_meta:
            return
        packed = self._packed()
        self.weight = packed if layout == "packed" else ops.arrange(packed, self.in_features, layout)

    def dtypes(self) -> dict[str, torch.dtype | None]:
        """The dtype of every tensor of it in a checkpoint but the bias; None: the model's."""
        outputs: Outputs = "plain" if self.output_salient is None else "salient"
        outputs = outputs if self.output_alpha is None else "neuron"
        shapes = buffer_shapes(self.in_features, self.out_features, self.scheme, self.input_balance is None, outputs)
        return {name: dtype for name, (_, dtype) in shapes.items()}

    @property
    def layout(self) -> ops.Layout:
        """How the weight lies at the moment."""
        return "packed" if self.weight.dim() == 3 else "columns" if self.weight.dim() == 2 else "tiles"

    def _packed(self) -> Tensor:
        return self.weight if self.layout == "packed" else ops.pack(self.integers(), self.scheme.weights.bits)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self._packed()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        layout = self.layout
        self.arrange("packed")
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self.group.forget()
        self.arrange(layout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SpikeLinear":
        exact = {name: self._buffers[name] for name in FLOAT32}
        self.group.forget()  # else what is moved away would stay in memory too
        super()._apply(fn, recurse)
        # `model.to(bfloat16)` must not round scales and thresholds; `model.to("cuda")` must move them.
        for name, before in exact.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != torch.float32:
                self._buffers[name] = before.to(after.device)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "group" in self.__dict__:  # another weight, layout, scheme or execution
            self.group.forget()

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        rotation = self.encoder.rotation.describe() if self.encoder.rotation else "none"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits={self.scheme.bits}, virtual_steps={self.scheme.inputs.virtual_steps}, rotation={rotation}"
        )


def buffer_shapes(
    in_features: int,
    out_features: int,
    scheme: LinearScheme,
    folds: bool = True,
    outputs: Outputs = "plain",
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype (None: the model's) of every buffer of a converted linear, which are its checkpoint tensors.

    `folds` says whether what stands in front takes in the factors of a balanced input (`ModuleLinear.folds`),
    `outputs` what becomes of its outputs.
    """
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype | None]] = {}
    if scheme.weights.is_float:
        shapes["weight"] = ((out_features, 1, in_features), None)
    else:
        shapes["weight"] = (ops.packed_shape(out_features, in_features, scheme.weights.bits), torch.uint8)
        shapes["weight_scale"] = ((out_features,), torch.float32)
        if isinstance(scheme.inputs, GifInputs):
            shapes["weight_sum"] = ((2, out_features), torch.int32)
        elif not scheme.inputs.symmetric:
            shapes["weight_sum"] = ((out_features,), torch.int32)
    if scheme.clip is not None:
        shapes["input_threshold"] = ((1,), torch.float32)
    if scheme.balance != "none" and not folds:
        shapes["input_balance"] = ((in_features,), torch.float32)
    if isinstance(scheme.inputs, GifInputs):
        shapes["input_salient"] = ((in_features,), torch.uint8)
    if isinstance(scheme.inputs, NeuronInputs):
        shapes["input_alpha"] = ((scheme.inputs.time_steps,), torch.float32)
    if outputs == "neuron":
        shapes["output_alpha"] = ((scheme.inputs.virtual_steps,), torch.float32)
    if outputs == "salient":
        shapes["output_salient"] = ((out_features,), torch.uint8)
    return shapes


def row_sums(integers: Tensor, salient: Tensor | None) -> Tensor:
    """What zero points multiply: int32 [out] of integers int8 [out, in], or [2, out] of both kinds of channels."""
    if salient is None:
        return integers.sum(1, dtype=torch.int32)
    kinds = [integers[:, salient.bool() == is_salient].sum(1, dtype=torch.int32) for is_salient in (False, True)]
    return torch.stack(kinds)


def packed_row_sums(packed: Tensor, salient: Tensor) -> Tensor:
    """`row_sums` int32 [2, out] of a packed weight, some rows at a time."""
    rows = packed.split(max(1, UNPACKED // len(salient)))
    return torch.cat([row_sums(ops.unpack(part, len(salient)), salient) for part in rows], 1)


def default_execution() -> str:
    """`$SPIKECONV_EXEC`, or auto."""
    return checked_execution(os.environ.get("SPIKECONV_EXEC", "auto"))


def checked_execution(execution: str) -> str:
    """The name itself if it is an execution; SpikeconvError otherwise."""
    check_execution(execution)
    return execution


def spike_linears(model: nn.Module) -> dict[str, SpikeLinear]:
    """Every converted linear of a model by its name, in order.

    Raises:
        SpikeconvError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise SpikeconvError(f"A {type(model).__name__} is no model; give the model itself, which `load` returns.")
    return {name: module for name, module in model.named_modules() if isinstance(module, SpikeLinear)}
