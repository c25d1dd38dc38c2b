"""Accuracy of a classifier on texts with labels."""

import math
import time
from collections.abc import Sequence

import torch

from spikeconv.data.labelled import LABELLED_TASKS, collate, labelled
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.results import EvaluationResult, TaskResult
from spikeconv.families import classifies
from spikeconv.loading import LoadedModel, device_of
from spikeconv.progress import Track, silent
from spikeconv.ranks import ALONE, Ranks

__all__ = ["classify_tasks"]

BATCH = 32


def classify_tasks(
    loaded: LoadedModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | str = "auto",
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> EvaluationResult:
    """Score a classifier on the test splits of tasks.

    Args:
        loaded: the model and its tokenizer.
        tasks: names in `LABELLED_TASKS`, or `.jsonl` files.
        limit: only the first examples of each task.
        batch_size: texts at once.
        track: progress display.
        ranks: processes that share the batches; each gets the whole result.

    Raises:
        SpikeconvError: the model is no classifier, has fewer labels than a task, or there is no such task.
    """
    if not classifies(loaded.model):
        raise SpikeconvError(
            f"A {type(loaded.model).__name__} has no head that labels texts; `spikeconv finetune --task` trains one."
        )
    size, start, tokens = BATCH if batch_size == "auto" else int(batch_size), time.perf_counter(), 0
    results = []
    for task in tasks:
        examples = labelled(task, "test")[:limit]
        known = int(loaded.model.config.num_labels)
        if (most := max(example.label for example in examples)) >= known:
            raise SpikeconvError(f"{task} has label {most}, but {loaded.name} knows {known} labels.")
        right = 0
        batches = [examples[first : first + size] for first in range(0, len(examples), size)]
        share = ranks.share(batches)
        device = device_of(loaded.model)
        with torch.inference_mode():
            for batch in track(share, f"classifying {task}", len(share)):
                given = {name: each.to(device) for name, each in collate(loaded, batch).items()}
                labels = given.pop("labels")
                tokens += given["input_ids"].numel()
                logits = loaded.model(**given).logits
                if not logits.isfinite().all():
                    raise SpikeconvError(f"{loaded.name} gives scores that are not finite.")
                right += int((logits.argmax(-1) == labels).sum())
        right = sum(ranks.gather(right))
        n, accuracy = len(examples), right / len(examples)
        error = math.sqrt(accuracy * (1 - accuracy) / (n - 1)) if n > 1 else None
        results.append(TaskResult(task, "acc", accuracy, error, n, "test", {"acc": accuracy}))
    tokens = sum(ranks.gather(tokens))
    data = "offline" if all(task in LABELLED_TASKS for task in tasks) else "file"
    return EvaluationResult(tuple(results), data, time.perf_counter() - start, tokens, {}, **loaded.compute)
