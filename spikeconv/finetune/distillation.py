"""Distillation from the float model: its logits, and its hidden states behind every layer (SpikeLM, as in DQ-BART).

    loss = CE + λ_logits · KL(teacher ‖ student) + λ_hidden · mean over layers of ‖h - h*‖² / ‖h*‖²

The hidden states' distance is taken relative to the teacher's, so that one λ serves models of any scale. A student of
several streams has the mean of its streams as its state.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from spikeconv.families import family_of, own_name

__all__ = ["Distillation"]


class Distillation:
    """What of a loss comes from a teacher.

    Args:
        student: the model that trains, without spikes yet or with them.
        teacher: a float model of the same layers, which is frozen here.
        steps: streams of the student.
        of_logits, of_hidden: λ.
    """

    def __init__(self, student: Any, teacher: Any, steps: int, of_logits: float, of_hidden: float) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self._of_logits, self._of_hidden = of_logits, of_hidden
        self._steps = steps
        self._seen: dict[bool, list[Tensor]] = {True: [], False: []}
        for model, is_student in ((student, True), (teacher, False)):
            for stack in family_of(model).stacks:
                for layer in model.get_submodule(own_name(model, stack.layers)):
                    layer.register_forward_hook(partial(self._see, is_student))

    def _see(self, is_student: bool, _layer: nn.Module, _arguments: Any, output: Any) -> None:
        self._seen[is_student].append(output[0] if isinstance(output, tuple) else output)

    def begin(self) -> None:
        """Forget the batch before: the student is about to read one."""
        self._seen[True].clear()

    def loss(self, batch: dict[str, Any], logits: Tensor) -> Tensor:
        """What the teacher adds to the loss of a batch that the student has just read."""
        self._seen[False].clear()
        with torch.no_grad():
            expected = self.teacher(**batch).logits
        total = logits.new_zeros(())
        if self._of_logits:
            wanted = log_softmax(expected.float(), -1).flatten(0, -2)
            found = log_softmax(logits.float(), -1).flatten(0, -2)
            total = total + self._of_logits * kl_div(found, wanted, reduction="batchmean", log_target=True)
        if self._of_hidden:
            mask = batch.get("attention_mask")
            pairs = list(zip(self._seen[True], self._seen[False], strict=True))
            distances = [self._distance(found, wanted, mask) for found, wanted in pairs]
            total = total + self._of_hidden * torch.stack(distances).mean()
        self._seen[True].clear()
        self._seen[False].clear()
        return total

    def _distance(self, found: Tensor, wanted: Tensor, mask: Tensor | None) -> Tensor:
        if len(found) != len(wanted):
            found = found.unflatten(0, (self._steps, -1)).mean(0)
        if mask is not None:  # what stands behind a text is nobody's state
            found, wanted = found[mask.bool()], wanted[mask.bool()]
        return (found.float() - wanted.float()).square().sum() / wanted.float().square().sum().clamp_min(1e-12)
