from spikeconv.families.base import Family, LinearSpec, ModuleLinear, folded_norms
from spikeconv.families.registry import FAMILIES, find_family

__all__ = ["FAMILIES", "Family", "LinearSpec", "ModuleLinear", "find_family", "folded_norms"]
