from spikeconv.families.base import Family, LinearSpec, ModuleLinear, folded_norms, head_dim
from spikeconv.families.registry import FAMILIES, family_of, find_family

__all__ = ["FAMILIES", "Family", "LinearSpec", "ModuleLinear", "family_of", "find_family", "folded_norms", "head_dim"]
