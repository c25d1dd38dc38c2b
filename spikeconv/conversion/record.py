"""`spikeconv.json`: how a checkpoint was made, so that it can be made again and checked."""

import time
from typing import Any

from spikeconv.conversion.layers import LayerResult
from spikeconv.conversion.plan import Job, Plan
from spikeconv.hashing import HASH
from spikeconv.sources.base import Source
from spikeconv.versions import versions

__all__ = ["make_record"]

PACKAGES = ("torch", "transformers", "safetensors", "gguf")


def make_record(
    source: Source,
    plan: Plan,
    read: dict[str, str],
    headers: dict[str, str],
    tensors: dict[str, str],
    files: dict[str, str],
    command: str,
    layers: list[LayerResult],
) -> dict[str, Any]:
    """Everything about a conversion that its checkpoint should remember.

    Args:
        source: what was converted.
        plan: the settings, also by layer, skipped modules and ignored tensors.
        read: BLAKE3 of the source's tensors, by name.
        headers: BLAKE3 of what each shard of the checkpoint has in front of its tensors.
        tensors: BLAKE3 of the checkpoint's tensors, by name: with the headers, of every byte.
        files: SHA-256 of its other files of weights.
        command: the exact command line.
        layers: errors and dampings, kept of the weights that were calibrated.
    """
    results = {result.layer: result for result in layers}
    return {
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(PACKAGES),
        "source": {"path": source.origin(), **_known(source), "tensors": read},
        **({} if plan.calibration is None else {"calibration": plan.calibration.record}),
        **({} if plan.found is None else {"search": plan.found}),
        "config": plan.config.model_dump(mode="json"),
        "family": plan.family.model_type,
        "bits_per_weight": plan.bits_per_weight,
        "rotations": {str(size): shape for size, shape in plan.rotations().items()},
        "layers": {
            job.linear.name: {"role": job.linear.role, "virtual_steps": job.scheme.inputs.virtual_steps}
            | _calibrated(job, results.get(job.linear.layer))
            | job.scheme.model_dump(mode="json")
            for job in plan.jobs
        },
        "skipped": plan.skipped,
        "ignored": plan.ignored,
        "hash": HASH,
        "headers": headers,
        "tensors": tensors,
        "files": files,
    }


def _known(source: Source) -> dict[str, Any]:
    card = source.card()
    return ({} if source.arch is None else {"arch": source.arch}) | ({"card": card} if card else {})


def _calibrated(job: Job, result: LayerResult | None) -> dict[str, float]:
    role = job.linear.role
    if result is None or role not in result.output_error:
        return {}
    return {
        "relative_error": result.relative_error[role],
        "output_error": result.output_error[role],
        "damping": result.raised.get(role, job.scheme.weights.damping),
    }
