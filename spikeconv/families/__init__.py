from spikeconv.families.base import Family, LinearSpec, ModuleLinear, Stack, folded_norms, head_dim
from spikeconv.families.modules import (
    auto_class_of,
    center_of,
    classifies,
    linears_of,
    names_classifier,
    output_of,
    own_name,
    refuse_encoder,
)
from spikeconv.families.native import DataMixingBlock, GatedDecoder, RecurrentBlock
from spikeconv.families.norm import NormKind
from spikeconv.families.registry import FAMILIES, family_of, find_family

__all__ = [
    "FAMILIES",
    "DataMixingBlock",
    "Family",
    "GatedDecoder",
    "LinearSpec",
    "ModuleLinear",
    "NormKind",
    "RecurrentBlock",
    "Stack",
    "auto_class_of",
    "center_of",
    "classifies",
    "family_of",
    "find_family",
    "folded_norms",
    "head_dim",
    "linears_of",
    "names_classifier",
    "output_of",
    "own_name",
    "refuse_encoder",
]
