"""Names of modules in a model with an output head, which families and checkpoints use, and in one without."""

from collections.abc import Mapping
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.families.base import Family, ModuleLinear
from spikeconv.families.registry import FAMILIES, family_of

__all__ = [
    "auto_class_of",
    "center_of",
    "classifies",
    "linears_of",
    "names_classifier",
    "output_of",
    "own_name",
    "refuse_encoder",
]


def own_name(model: Any, name: str) -> str:
    """What a model calls a module that is called `name` in the model with its output head."""
    prefix: str = model.base_model_prefix
    if not hasattr(model, prefix):
        return name.removeprefix(f"{prefix}.")
    return name if hasattr(model, name.partition(".")[0]) else f"{prefix}.{name}"


def output_of(output: Any) -> Any:
    """What a forward gives: logits [batch, tokens, vocabulary], or an encoder's states [batch, tokens, hidden]."""
    logits = getattr(output, "logits", None)
    return output.last_hidden_state if logits is None else logits


def center_of(model: Any, linear: ModuleLinear) -> Any:
    """The LayerNorm of a model whose bias is a constant part of a linear's input; None where there is none."""
    norm = model.get_submodule(own_name(model, linear.center)) if linear.center else None
    return None if norm is None or norm.bias is None else norm


def names_classifier(architecture: str) -> bool:
    """Whether a class of transformers has a head that labels texts."""
    return architecture.endswith("ForSequenceClassification")


def classifies(model: Any) -> bool:
    """Whether a model's head labels texts."""
    return names_classifier(type(model).__name__)


def refuse_encoder(family: Family, what: str) -> None:
    """Check that a family's models predict tokens.

    Raises:
        SpikeconvError: they are encoders, for which there is no such thing as `what`.
    """
    if family.encodes:
        raise SpikeconvError(
            f"{family.architecture} is an encoder: it predicts no next token, so it has no {what}; "
            "`spikeconv similarity` compares its sentence vectors with the float model's, `spikeconv finetune --task` "
            "makes a classifier of it."
        )


def auto_class_of(config: Mapping[str, Any]) -> Any:
    """The class of transformers that loads what a `config.json` describes; that of causal models if it is unknown."""
    family = FAMILIES.get(str(config.get("model_type", "")))
    if family is not None:
        return family.auto_model(config.get("architectures"))
    from transformers import AutoModelForCausalLM  # which takes seconds

    return AutoModelForCausalLM


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
