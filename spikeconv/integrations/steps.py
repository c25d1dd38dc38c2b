"""Changes the number of virtual steps of a loaded model: how finely inputs are counted, nothing else."""

from typing import Any

from spikeconv.checkpoint.format import quantization_config
from spikeconv.config import LinearScheme, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import linears_of
from spikeconv.nn import spike_linears

__all__ = ["set_virtual_steps"]


def set_virtual_steps(model: Any, steps: int) -> None:
    """Spread the inputs of a model's converted linears over T' virtual steps.

    Args:
        model: a converted model whose inputs are ternary or binary counts.
        steps: T', which decides the bits of the counts; linears whose bits an override names keep them.

    Raises:
        SpikeconvError: the model is not converted or cannot have so many steps; nothing was changed then.
    """
    linears = spike_linears(model)
    if not linears:
        raise SpikeconvError(f"This {type(model).__name__} has no converted linear whose steps could be set.")
    if any(linear.encoder.observers for linear in linears.values()):
        raise SpikeconvError("The steps cannot change while spikes are recorded; leave record_spikes first.")
    stored = model.config.quantization_config
    if steps is None:
        raise SpikeconvError("steps must be a positive whole number, not None.")
    config = SpikeConfig.parse(stored.spike_config().model_dump(), {"steps": steps})
    named = linears_of(model)
    schemes: dict[str, LinearScheme] = {}
    for name, linear in linears.items():
        scheme = config.for_linear(named[name].name, named[name].role)
        assert scheme is not None  # it is converted, so it is not skipped
        if reason := scheme.overflow(linear.in_features):
            raise SpikeconvError(f"{name}: {reason}.")
        schemes[name] = scheme
    for name, linear in linears.items():
        linear.scheme = linear.encoder.scheme = schemes[name]  # the encoder takes another codec
    for key, value in quantization_config(config).items():
        setattr(stored, key, value)
