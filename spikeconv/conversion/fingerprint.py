"""What a conversion was begun with: the same, and what was written of it can be gone on with."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikeconv.conversion.plan import Plan
from spikeconv.conversion.writing import Writing
from spikeconv.sources.base import Source
from spikeconv.sources.tensor_files import bytes_of
from spikeconv.versions import versions

__all__ = ["fingerprint"]

PACKAGES = ("torch", "transformers")


def fingerprint(source: Source, plan: Plan, dtype: torch.dtype | None, writing: Writing) -> dict[str, Any]:
    """Values of JSON that say which bytes will be written: the source's headers, every setting, what was calibrated."""
    headers = [[name, str(source.dtype(name)), list(source.shape(name))] for name in source.names()]
    return {
        "source": str(source.path),
        "files": source.states(),
        "headers": _digest(headers),
        "source config": _digest(source.config),
        "settings": plan.config.model_dump(mode="json"),
        "dtype": str(dtype),
        "shard bytes": writing.shard_bytes,
        "device": writing.device.type,
        "calibration": None if plan.calibration is None else plan.calibration.record,
        "thresholds": _digest({job.linear.name: job.threshold for job in plan.jobs}),
        "balance": _bytes_digest(plan.diagonals or {}),
        "salient": _bytes_digest(plan.salient or {}),
        "salient outputs": _bytes_digest(plan.salient_outputs or {}),
        "alphas": _bytes_digest(plan.alphas or {}),
        "output alphas": _bytes_digest(plan.output_alphas or {}),
        "versions": versions(PACKAGES),
    }


def _bytes_digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
