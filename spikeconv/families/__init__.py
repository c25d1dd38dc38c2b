from spikeconv.families.base import Family, LinearSpec, ModuleLinear
from spikeconv.families.registry import FAMILIES, find_family

__all__ = ["FAMILIES", "Family", "LinearSpec", "ModuleLinear", "find_family"]
