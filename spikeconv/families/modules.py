"""Names of modules in a model with an output head, which families and checkpoints use, and in one without."""

from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.families.base import ModuleLinear
from spikeconv.families.registry import family_of

__all__ = ["linears_of", "own_name"]


def own_name(model: Any, name: str) -> str:
    """What a model calls a module that is called `name` in the model with its output head."""
    prefix: str = model.base_model_prefix
    return name if hasattr(model, prefix) else name.removeprefix(f"{prefix}.")


def linears_of(model: Any) -> dict[str, ModuleLinear]:
    """The linears of a supported model, in order, by their names in it; each as the family names it.

    Raises:
        SpikeconvError: as `family_of`, or the model is inside another module.
    """
    layout = family_of(model).layout(model.config.get_text_config())
    named = {own_name(model, linear.name): linear for linear in layout}
    try:
        model.get_submodule(next(iter(named)))
    except AttributeError:
        raise SpikeconvError(f"A {type(model).__name__} only wraps a model; give the model inside it.") from None
    return named
