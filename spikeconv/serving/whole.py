"""That a folder holds the tensors that its model needs, and no others: vLLM itself does not ask."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from spikeconv.checkpoint.balance import BALANCE
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.integrations.loading import check_files
from spikeconv.integrations.transformers import swap_linears
from spikeconv.sources.weight_files import find_weight_files

__all__ = ["check_checkpoint"]


def check_checkpoint(folder: Path, hf_config: Any, config: SpikeConfig) -> None:
    """Compare a checkpoint's files with its model, which is built without memory.

    Raises:
        SpikeconvError: a tensor is missing, unexpected, there twice, or has another shape or type; or vLLM, which
            reads every file of weights, would read one that is not the checkpoint's.
    """
    found = find_weight_files(folder, hf_config.to_dict())
    if found.index is None:
        known = {*(path.name for path in found.files.values()), BALANCE}
        for path in sorted(folder.glob("*.safetensors")):
            if path.name not in known:
                raise SpikeconvError(f"{path} is no part of the checkpoint, but vLLM would load it; move it elsewhere.")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
        swap_linears(model, config)
    check_files(model, found.files.values())
