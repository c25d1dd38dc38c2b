"""The checkpoint format as a quantization method of vLLM."""

import re
from pathlib import Path
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.models.utils import WeightsMapper

from spikeconv.checkpoint.format import METHOD, read_settings, zero_shares
from spikeconv.nn.memory import LargePages
from spikeconv.serving.layers import FUSED, FusedLinear, check_engine, check_settings, check_split, fused_linears
from spikeconv.serving.method import SpikeLinearMethod
from spikeconv.serving.versions import check_vllm
from spikeconv.serving.whole import check_checkpoint

__all__ = ["VllmSpikeConfig"]

LEAST_CAPABILITY = 80
"""Of GPUs: what the CUDA kernels are compiled for."""


@register_quantization_config(METHOD)
class VllmSpikeConfig(QuantizationConfig):  # type: ignore[misc]  # vLLM need not be installed
    """A checkpoint's settings, and which of vLLM's linears they convert."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__()
        self.packed_modules_mapping = dict(FUSED)
        self.spike_config = read_settings(values)
        check_settings(self.spike_config)
        self.zero_share = zero_shares(values)
        self.linears: dict[str, FusedLinear] = {}
        self.hf_config: Any = None
        self.pages = LargePages()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spike_config.bits}, {self.spike_config.sending})"

    @classmethod
    def get_name(cls) -> str:
        """As `quant_method` of `config.json` says."""
        return METHOD

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """Dtypes of what stays float."""
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Of GPUs, as vLLM counts."""
        return LEAST_CAPABILITY

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None beside `config.json`."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VllmSpikeConfig":
        """From the `quantization_config` of a checkpoint.

        Raises:
            SpikeconvError: the settings cannot be run here, or this vLLM is another than the plug-in is made for.
        """
        check_vllm()
        return cls(config)

    def maybe_update_config(self, model_name: str, hf_config: Any = None, revision: str | None = None) -> None:
        """vLLM says which model it is; its files, where they are at hand, are compared with what it needs.

        Raises:
            SpikeconvError: vLLM cannot run such a model, or a tensor is missing, unexpected, or of another shape.
        """
        del revision
        self.linears, self.hf_config = fused_linears(self.spike_config, hf_config, self.zero_share), hf_config
        if Path(model_name).is_dir():
            check_checkpoint(Path(model_name), hf_config, self.spike_config)

    def get_checkpoint_weight_mapper(self) -> Any:
        """Leaves out the factors of a balance, which lie beside the weights in a file of their own."""
        groups = "|".join(re.escape(linear.group) for linear in self.linears.values())
        return WeightsMapper(orig_to_new_regex={re.compile(f"^({groups})$"): None})

    def get_quant_method(self, layer: Any, prefix: str) -> Any:
        """The method of a linear; None of what is none, and stays float."""
        if not isinstance(layer, LinearBase):
            return None
        check_engine(get_current_vllm_config())
        check_split(self.hf_config, get_tensor_model_parallel_world_size())
        fused = self.linears.get(prefix)
        return UnquantizedLinearMethod() if fused is None else SpikeLinearMethod(fused, self.pages)
