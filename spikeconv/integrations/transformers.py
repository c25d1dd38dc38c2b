"""The checkpoint format as a quantization method of transformers.

After registration `AutoModelForCausalLM.from_pretrained` builds the model on the meta device, the converted linears are
swapped in, and the packed tensors load under their own names; no conversion of weights happens at load.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from spikeconv.checkpoint.format import METHOD, quantization_config, read_settings, zero_shares
from spikeconv.config import LinearScheme, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear, center_of, family_of, own_name
from spikeconv.integrations.attention import use_spiking_attention
from spikeconv.integrations.engine import use_engine
from spikeconv.integrations.fallbacks import warn_of_fallbacks
from spikeconv.integrations.loading import check_files, check_tensors
from spikeconv.models.adopt import adopt
from spikeconv.nn import (
    FoldedNorm,
    SpikeGroup,
    SpikeLinear,
    arrange_weights,
    check_shared,
    guard_first_forward,
    run_streams,
    spike_linears,
)

__all__ = ["SpikeQuantizationConfig", "SpikeQuantizer", "make_spiking", "swap_linears"]


@register_quantization_config("spikeconv")
class SpikeQuantizationConfig(QuantizationConfigMixin):
    """`quantization_config` of a converted checkpoint (see `spikeconv.checkpoint.format`).

    Raises:
        SpikeconvError: the format is another, or a setting is unknown, missing or impossible.
    """

    def __init__(
        self,
        quant_method: str = METHOD,
        format: int | None = None,
        zero_share: dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        self.quant_method = quant_method  # type: ignore[assignment] # out-of-tree methods are not in the enum
        self.format = format  # None, of a config that does not say it, is refused below
        if zero_share is not None:
            self.zero_share = zero_share
        for key, value in quantization_config(read_settings({"format": format, **settings})).items():
            setattr(self, key, value)

    def spike_config(self) -> SpikeConfig:
        """The conversion's settings."""
        return read_settings(self.to_dict())


@register_quantizer("spikeconv")
class SpikeQuantizer(HfQuantizer):
    """Builds and loads a converted model."""

    requires_calibration = True
    quantization_config: SpikeQuantizationConfig

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        adopt(model)
        swap_linears(model, self.quantization_config.spike_config())
        if checkpoint_files is not None:  # None: the weights come as a state dict
            check_files(model, checkpoint_files)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        check_tensors(model)
        check_shared(model)
        self._set_zero_shares(model)
        arrange_weights(model)
        config = self.quantization_config.spike_config()
        if config.kv is not None:
            use_spiking_attention(model, config.kv, config.rotation.seed)
        if not use_engine(model):
            guard_first_forward(model)
        warn_of_fallbacks(model)

    def _set_zero_shares(self, model: Any) -> None:
        linears = spike_linears(model)
        for name, share in zero_shares(self.quantization_config.to_dict()).items():
            linear = linears.get(own_name(model, name))
            if linear is None:
                raise SpikeconvError(f"quantization_config: zero_share names {name}, which is no converted linear.")
            linear.group.zero_share = share

    def is_serializable(self) -> bool:
        """`save_pretrained` writes the checkpoint back bit for bit."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters, inputs and what stays float train, by gradients straight through the rounding; weights do not."""
        return True


def make_spiking(model: Any, config: SpikeConfig) -> dict[str, SpikeLinear]:
    """`swap_linears`, and attention over spike counts where the settings ask for it."""
    linears = swap_linears(model, config)
    if config.kv is not None:
        use_spiking_attention(model, config.kv, config.rotation.seed)
    return linears


def swap_linears(model: Any, config: SpikeConfig) -> dict[str, SpikeLinear]:
    """Replace the linears of a transformers model by empty `SpikeLinear`s on the same device.

    Args:
        model: a supported `PreTrainedModel`; biases are kept, and where a constant part of the input is taken off
            there is one.
        config: settings of the conversion.

    Returns:
        The new modules by name; their buffers are uninitialised.
    """
    named = family_of(model).layout(model.config.get_text_config())
    layout = [_in_model(linear, model) for linear in named]
    schemes = {own.name: config.for_linear(linear.name, linear.role) for linear, own in zip(named, layout, strict=True)}
    converted = {name: scheme for name, scheme in schemes.items() if scheme is not None}
    groups, folds = _groups(model, layout, converted), {linear.name: linear.folds for linear in layout}
    roles, swapped = {linear.name: linear.role for linear in layout}, {}
    for name, scheme in converted.items():
        old = model.get_submodule(name)
        has_bias = old.bias is not None or groups[name].encoder.center is not None or scheme.weights.has_bias
        with torch.device(old.weight.device):
            new = SpikeLinear(
                old.in_features,
                old.out_features,
                scheme,
                groups[name],
                bias=has_bias,
                dtype=old.weight.dtype,
                folds=folds[name],
                outputs=config.outputs_of(roles[name], scheme),
            )
        if old.bias is not None:
            new.bias = old.bias
        model.set_submodule(name, new)
        swapped[name] = new
    for stack in family_of(model).stacks:
        run_streams(list(model.get_submodule(own_name(model, stack.layers))), config.time_steps)
    return swapped


def _in_model(linear: ModuleLinear, model: Any) -> ModuleLinear:
    """A linear with the module names of this model, which may have no output head."""
    paths = (linear.norm, linear.center, linear.writer)
    norm, center, writer = (name and own_name(model, name) for name in paths)
    return replace(linear, name=own_name(model, linear.name), norm=norm, center=center, writer=writer)


def _groups(model: Any, layout: list[ModuleLinear], schemes: dict[str, LinearScheme]) -> dict[str, SpikeGroup]:
    """The group of every linear to be converted.

    A norm whose output only one group sees moves into its encoder, if that can compute it.
    """
    keys = {}
    for linear in layout:
        if scheme := schemes.get(linear.name):
            has_bias = model.get_submodule(linear.name).bias is not None or scheme.weights.has_bias
            keys[linear.name] = (linear.group, *scheme.encoding, scheme.weights.bits, has_bias)
    readers: dict[str | None, set[Any]] = defaultdict(set)
    for linear in layout:
        readers[linear.norm].add(keys.get(linear.name))
    norms: dict[Any, FoldedNorm] = {}
    epsilons = {linear.norm: linear.norm_kind.epsilon for linear in layout if linear.norm_kind.in_encoder}
    for norm, seen_by in readers.items():
        if norm and (epsilon := epsilons.get(norm)) and len(seen_by) == 1 and None not in seen_by:
            weight = model.get_submodule(norm).weight
            folded = FoldedNorm(weight, float(getattr(model.config.get_text_config(), epsilon)))
            model.set_submodule(norm, folded)
            norms[seen_by.pop()] = folded
    groups: dict[Any, SpikeGroup] = {}
    for linear in layout:
        if (key := keys.get(linear.name)) and key not in groups:
            center = center_of(model, linear) if schemes[linear.name].centers else None
            in_features = model.get_submodule(linear.name).in_features
            groups[key] = SpikeGroup(in_features, schemes[linear.name], norms.get(key), center)
    return {name: groups[key] for name, key in keys.items()}
