"""The float model of a source, with its tokenizer: what calibration, training and comparisons run."""

from functools import partial
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, find_family, names_classifier
from spikeconv.loading import LoadedModel, load_model
from spikeconv.models.adopt import adopt
from spikeconv.placing import Placing
from spikeconv.sources.base import Source
from spikeconv.sources.hf import HfSource
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.resolve import open_source

__all__ = ["load_float"]


def load_float(
    source: Path | Source,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    labels: int | None = None,
    placing: Placing | None = None,
) -> LoadedModel:
    """Load a float model from a Hugging Face directory, a GGUF file or a `.pth` file, opened already or not.

    Args:
        source: where it is.
        device: as torch names it, or "auto".
        dtype: by name; "auto" takes the source's.
        trust_remote_code: allow the source's own Python code.
        labels: load a classifier of so many labels; a source without that head gets one, drawn at random.
        placing: how a directory's model is spread that one device cannot hold; then it says where, not `device`.

    Raises:
        SpikeconvError: it cannot be opened, loaded or spread, or its family has no classifiers.
    """
    opened = open_source(source, trust_remote_code=trust_remote_code) if isinstance(source, Path) else source
    config = hf_config(opened.config, most_layers=len(opened.names()))
    family = find_family(opened.config)
    auto_model, options = family.auto_model(config.architectures), {}
    if labels is not None:
        auto_model, options = _classifier(family, config.architectures, opened), {"num_labels": labels}
    if isinstance(opened, HfSource):
        options |= {"trust_remote_code": opened.trust_remote_code, **family.fixed}
        options |= {} if placing is None else placing.options()
        model, name = partial(auto_model.from_pretrained, opened.path, **options), opened.path.name
    elif placing is not None:
        raise SpikeconvError(
            f"{opened.path.name} is read whole, so its float model cannot be spread over memory and disk; measure the "
            "checkpoint without --baseline, or from a directory of safetensors."
        )
    else:  # not `from_pretrained(gguf_file=…)`: that prints, and leaves a model that refuses `save_pretrained`
        weights = {name: opened.load(name) for name in opened.names()}
        model_class: Any = auto_model._model_mapping[type(config)]
        model = partial(model_class.from_pretrained, None, config=config, state_dict=weights)
        name = opened.path.stem
    loaded = load_model(opened.path, name, device, dtype, model, opened.tokenizer)
    adopt(loaded.model)
    if labels is not None:
        loaded.model.config.architectures = [type(loaded.model).__name__]
    return loaded


def _classifier(family: Family, architectures: Any, source: Source) -> Any:
    """The class of transformers that makes a family's classifiers."""
    name = next(filter(names_classifier, family.heads), None)
    if name is None or not isinstance(source, HfSource):
        raise SpikeconvError(
            f"{family.architecture} ({source.path.name}) cannot become a classifier; BertModel directories can."
        )
    if architectures != [name] and any(each in family.heads for each in architectures or ()):
        raise SpikeconvError(f"{source.path} has another head ({architectures[0]}); give the encoder itself.")
    return family.auto_model([name])
