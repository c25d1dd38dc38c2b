"""A float model that computes what its conversion will: to find α of neurons, and to train through spikes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import center_of, family_of, own_name
from spikeconv.nn import Encoder, TrainedInput, TrainedLinear, run_streams
from spikeconv.progress import Track, silent

__all__ = ["Alphas", "find_alphas", "through_spikes"]

HELD = ("input_threshold", "input_salient")
"""Of what is calibrated of an input, that which stays as it is."""

Alphas = tuple[dict[str, Tensor], dict[str, Tensor]]
"""α float32 [T] by module name: in front of linears, and behind keys and values."""

FIRST_BATCH = 4096
"""Tokens that α is found on: SpikeLM takes a batch of 32 texts of up to 128."""


def through_spikes(
    model: Any, config: SpikeConfig, held: Mapping[str, Mapping[str, Tensor]] | None = None
) -> dict[str, TrainedLinear]:
    """Put a `TrainedLinear` in the place of every linear that a conversion would convert.

    Args:
        model: a supported float `PreTrainedModel`, changed in place; its parameters stay the same objects.
        config: settings as a plan holds them.
        held: what was calibrated, by module name as the plan has it and buffer; α may be among it.

    Returns:
        The new modules by the plan's names.

    Raises:
        SpikeconvError: the settings are not of a kind that trains.
    """
    if config.rotation.kind == "quarot":
        raise SpikeconvError(
            "rotation=quarot changes the norms of a model, which would train with them; use gamma-sqp."
        )
    family, found = family_of(model), {}
    shared: dict[Any, TrainedInput] = {}
    for linear in family.layout(model.config.get_text_config()):
        scheme = config.for_linear(linear.name, linear.role)
        if scheme is None:
            continue
        if scheme.weights.is_calibrated or scheme.balance != "none":
            asked = scheme.weights.method if scheme.weights.is_calibrated else f"balance={scheme.balance}"
            raise SpikeconvError(f"{asked} is for a model that does not train; leave it out.")
        own = own_name(model, linear.name)
        module = model.get_submodule(own)
        known = dict((held or {}).get(linear.name, {}))
        key = linear.group, scheme.encoding
        if owns := key not in shared:
            center = center_of(model, linear) if scheme.centers else None
            inputs = {name: known[name] for name in HELD if name in known}
            shared[key] = TrainedInput(Encoder(module.in_features, scheme, center=center), inputs)
        trained = TrainedLinear(
            module, scheme, shared[key], owns=owns, outputs=config.outputs_of(linear.role, scheme)
        ).to(module.weight.device)
        for name, neurons in (("input_alpha", shared[key].alpha), ("output_alpha", trained.output)):
            if neurons is not None and name in known:
                neurons.set(known[name])
        model.set_submodule(own, trained)
        found[linear.name] = trained
    for stack in family.stacks:
        run_streams(list(model.get_submodule(own_name(model, stack.layers))), config.time_steps)
    return found


@torch.no_grad()
def find_alphas(model: Any, config: SpikeConfig, windows: Tensor, track: Track = silent) -> Alphas:
    """α of all neurons: what the first batch of a text says, layer behind firing layer.

    Args:
        model: a float model, which fires from then on.
        config: settings as a plan holds them.
        windows: token ids [windows, tokens].
        track: progress display.

    Raises:
        SpikeconvError: one is no number.
    """
    trained = through_spikes(model, config)
    first = windows[: max(1, FIRST_BATCH // windows.shape[1])]
    for ids in track([first], "calibrating neurons", 1):
        model.base_model(ids.to(model.device), use_cache=False)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name, linear in trained.items():
        for kind, tensor in linear.calibrated().items():
            if kind not in ("input_alpha", "output_alpha"):
                continue
            if not tensor.isfinite().all():
                raise SpikeconvError(f"What {name} reads is not finite; the model is damaged.")
            (inputs if kind == "input_alpha" else outputs)[name] = tensor
    return inputs, outputs
