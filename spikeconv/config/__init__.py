from spikeconv.config.base import FLOAT_BITS
from spikeconv.config.code import CodeSettings
from spikeconv.config.inputs import (
    ClipSettings,
    CountInputs,
    FloatInputs,
    GifInputs,
    InputSettings,
    MultiheadInputs,
    RepetitionInputs,
    SpikingInputs,
)
from spikeconv.config.kv import KvSettings
from spikeconv.config.neurons import ElasticInputs, LifInputs, NeuronInputs
from spikeconv.config.overrides import Override, matches
from spikeconv.config.parsing import Options, parse_settings
from spikeconv.config.rotation import RotationSettings
from spikeconv.config.scheme import LinearScheme, Outputs, SpikeConfig
from spikeconv.config.weights import WeightSettings

__all__ = [
    "FLOAT_BITS",
    "ClipSettings",
    "CodeSettings",
    "CountInputs",
    "ElasticInputs",
    "FloatInputs",
    "GifInputs",
    "InputSettings",
    "KvSettings",
    "LifInputs",
    "LinearScheme",
    "MultiheadInputs",
    "NeuronInputs",
    "Options",
    "Outputs",
    "Override",
    "RepetitionInputs",
    "RotationSettings",
    "SpikeConfig",
    "SpikingInputs",
    "WeightSettings",
    "matches",
    "parse_settings",
]
