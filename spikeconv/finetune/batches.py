"""Which windows of the text each step of each process reads."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.finetune.settings import FinetuneSettings

__all__ = ["Batches"]


class Batches:
    """Each epoch has its own order, which follows from the seed, so that nothing about it needs to be saved.

    Args:
        windows: token ids [windows, settings.window].
        settings: of the training.
        accelerator: accelerate's view of the processes.

    Raises:
        SpikeconvError: the windows are not enough for one step.
    """

    def __init__(self, windows: Tensor, settings: FinetuneSettings, accelerator: Accelerator) -> None:
        self.windows, self.settings, self.accelerator = windows, settings, accelerator
        self.step_windows = settings.batch_size * settings.accumulate * accelerator.num_processes
        if len(windows) < self.step_windows:
            raise SpikeconvError(
                f"The text has {len(windows)} windows of {settings.window} tokens, less than one step of "
                f"{self.step_windows}; give a longer text, or lower --batch-size, --accumulate or --window."
            )

    def take(self, batch: int) -> dict[str, Any]:
        """What the model is given in the so many-th batch of this process."""
        size = self.settings.batch_size
        first = (batch * self.accelerator.num_processes + self.accelerator.process_index) * size
        picked = []
        for position in range(first, first + size):
            epoch, index = divmod(position, len(self.windows))
            generator = torch.Generator().manual_seed(self.settings.seed + epoch)
            picked.append(self.windows[torch.randperm(len(self.windows), generator=generator)[index]])
        ids = torch.stack(picked).to(self.accelerator.device)
        return {"input_ids": ids, "labels": ids, "use_cache": False}
