"""What a vLLM of another version answers to a converted checkpoint; it needs next to nothing of vLLM."""

from typing import Any

from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from spikeconv.checkpoint.format import METHOD
from spikeconv.serving.versions import check_vllm

__all__ = ["RefusedConfig"]


@register_quantization_config(METHOD)
class RefusedConfig(QuantizationConfig):  # type: ignore[misc]  # vLLM need not be installed
    """Stands for the format until `quantization` does."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizationConfig:
        """Raise the SpikeconvError that names the versions."""
        check_vllm()
        raise AssertionError(config)
