"""Which examples each step of each process reads: windows of a text, or texts with labels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.finetune.settings import FinetuneSettings

__all__ = ["Batches", "Collate", "windows_together"]

Collate = Callable[[list[Any]], dict[str, Any]]
"""From some examples to what a model is called with."""


def windows_together(windows: list[Tensor]) -> dict[str, Any]:
    """What a causal model is called with for windows of token ids [tokens], which are their own labels."""
    ids = torch.stack(windows)
    return {"input_ids": ids, "labels": ids, "use_cache": False}


class Batches:
    """Each epoch has its own order, which follows from the seed, so that nothing about it needs to be saved.

    Args:
        examples: what is read, as `collate` takes it.
        settings: of the training.
        accelerator: accelerate's view of the processes.
        collate: puts the examples of a batch together.

    Raises:
        SpikeconvError: the examples are not enough for one step.
    """

    def __init__(
        self,
        examples: Sequence[Any] | Tensor,
        settings: FinetuneSettings,
        accelerator: Accelerator,
        collate: Collate = windows_together,
    ) -> None:
        self.examples, self.settings, self.accelerator = examples, settings, accelerator
        self._collate = collate
        self.step_examples = settings.batch_size * settings.accumulate * accelerator.num_processes
        if len(examples) < self.step_examples:
            what = (
                f"{len(examples)} examples" if settings.task else f"{len(examples)} windows of {settings.window} tokens"
            )
            raise SpikeconvError(
                f"There are {what}, less than one step of {self.step_examples}; give a longer text, or lower "
                "--batch-size, --accumulate or --window."
            )

    def take(self, batch: int) -> dict[str, Any]:
        """What the model is given in the so many-th batch of this process."""
        size = self.settings.batch_size
        first = (batch * self.accelerator.num_processes + self.accelerator.process_index) * size
        picked = []
        for position in range(first, first + size):
            epoch, index = divmod(position, len(self.examples))
            generator = torch.Generator().manual_seed(self.settings.seed + epoch)
            picked.append(self.examples[int(torch.randperm(len(self.examples), generator=generator)[index])])
        together = self._collate(picked)
        device = self.accelerator.device
        return {name: each.to(device) if isinstance(each, Tensor) else each for name, each in together.items()}
