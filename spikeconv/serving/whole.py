"""That a folder holds the tensors that its model needs, and no others: vLLM itself does not ask."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from spikeconv.config import SpikeConfig
from spikeconv.integrations.loading import check_files
from spikeconv.integrations.transformers import swap_linears

__all__ = ["check_checkpoint"]


def check_checkpoint(folder: Path, hf_config: Any, config: SpikeConfig) -> None:
    """Compare a checkpoint's files with its model, built without memory.

    Raises:
        SpikeconvError: a tensor is missing, unexpected, there twice, or has another shape or type.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
        swap_linears(model, config)
    check_files(model, sorted(folder.glob("*.safetensors")))
