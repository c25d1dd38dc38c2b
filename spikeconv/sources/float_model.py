"""The float model of a source, with its tokenizer: what calibration, training and comparisons run."""

from functools import partial
from pathlib import Path
from typing import Any

from spikeconv.families import find_family
from spikeconv.loading import LoadedModel, load_model
from spikeconv.models.adopt import adopt
from spikeconv.sources.base import Source
from spikeconv.sources.hf import HfSource
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.resolve import open_source

__all__ = ["load_float"]


def load_float(
    source: Path | Source, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> LoadedModel:
    """Load a float model from a Hugging Face directory, a GGUF file or a `.pth` file, opened already or not.

    Raises:
        SpikeconvError: it cannot be opened or loaded.
    """
    opened = open_source(source, trust_remote_code=trust_remote_code) if isinstance(source, Path) else source
    config = hf_config(opened.config, most_layers=len(opened.names()))
    family = find_family(opened.config)
    if isinstance(opened, HfSource):
        options = {"trust_remote_code": opened.trust_remote_code, **family.fixed}
        model, name = partial(family.auto_model().from_pretrained, opened.path, **options), opened.path.name
    else:  # not `from_pretrained(gguf_file=…)`: that prints, and leaves a model that refuses `save_pretrained`
        weights = {name: opened.load(name) for name in opened.names()}
        model_class: Any = family.auto_model()._model_mapping[type(config)]
        model = partial(model_class.from_pretrained, None, config=config, state_dict=weights)
        name = opened.path.stem
    loaded = load_model(opened.path, name, device, dtype, model, opened.tokenizer)
    adopt(loaded.model)
    return loaded
