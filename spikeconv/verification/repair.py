"""Makes what is damaged in a checkpoint's weight files again, from its source; the record says what must come out."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.checkpoint.balance import read_balance
from spikeconv.checkpoint.exchange import flush
from spikeconv.checkpoint.folder import read_record
from spikeconv.checkpoint.layout import Layout
from spikeconv.config import SpikeConfig
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.conversion.work import Work
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import digest_of
from spikeconv.sources.base import Source
from spikeconv.sources.digested import ChangedSourceError, DigestedSource
from spikeconv.sources.tensor_files import bytes_of
from spikeconv.verification.check import CheckResult, shard_headers, shard_of, tensor_digests

__all__ = ["repair"]

DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)
"""What the tensors that stay float may have been cast to; the record's hashes tell."""


def repair(path: Path, source: Source, found: CheckResult) -> list[str]:
    """Make every damaged weight file of a checkpoint again; returns their names.

    A file takes the place of the damaged one when every hash of it is the record's. Tensors that are whole are taken
    from the damaged file.

    Args:
        path: the checkpoint.
        source: what it was converted from.
        found: what is wrong with it.

    Raises:
        SpikeconvError: the source is another, the weights were calibrated, or something else than weights is damaged.
    """
    record = read_record(path)
    names = list(dict.fromkeys(damage.file for damage in found.damages))
    if others := [name for name in names if name not in shard_headers(path, record)]:
        raise SpikeconvError(f"{path / others[0]} cannot be repaired, only weights can; convert the model again.")
    read = record["source"].get("tensors")
    another = f"{source.path} is not what {path} was converted from: its tensors have other"
    if not isinstance(read, dict) or not read.keys() <= set(source.names()):
        raise SpikeconvError(f"{another} names.")
    digested = DigestedSource(source)
    digested.expect(read)
    plan = make_plan(source, SpikeConfig.parse(record["config"]))
    if plan.calibrates or plan.clips or plan.selects:
        raise SpikeconvError(f"{path} was calibrated, which is done for all of it at once; convert the model again.")
    if (balance := read_balance(path)) is not None:
        plan = replace(plan, diagonals=balance[0])
    for name in names:
        try:
            made = any(_made(path / name, digested, plan, record, dtype) for dtype in DTYPES)
        except ChangedSourceError:
            raise SpikeconvError(f"{another} hashes.") from None
        if not made:
            raise SpikeconvError(f"{path / name} cannot be repaired: this version makes other bytes of the source.")
    return names


def _made(path: Path, source: Source, plan: Plan, record: dict[str, Any], dtype: torch.dtype | None) -> bool:
    """Make one file; False, and nothing has changed, if its bytes are not the record's."""
    digests, places = tensor_digests(path.parent, record), shard_of(path.parent, record)
    balanced = plan.balanced(source, dtype)
    units = output_specs(balanced, plan, dtype)
    unit_of = {spec.name: unit for unit, specs in units.items() for spec in specs}
    members = [spec for specs in units.values() for spec in specs if places.get(spec.name) == path.name]
    layout = Layout.of(members, max(1, sum(spec.size for spec in members)))
    ((_, header),) = layout.headers.items()
    if digest_of(header) != shard_headers(path.parent, record)[path.name]:
        return False
    work, scratch = Work(balanced, plan, dtype), path.with_name(f".{path.name}.repair")
    try:
        with scratch.open("wb") as file:
            file.write(header)
            made: dict[str, Tensor] = {}
            for name, place in sorted(layout.places.items(), key=lambda item: item[1].begin):
                data = _old(path, place.begin, place.spec.size)
                if digest_of(data) != digests.get(name):
                    if name not in made:
                        made = work.process(unit_of[name]).tensors
                    data = bytes(bytes_of(made[name]))
                if digest_of(data) != digests.get(name):
                    return False
                file.write(data)
        flush(scratch)
        os.replace(scratch, path)
        flush(path.parent)
        return True
    finally:
        scratch.unlink(missing_ok=True)


def _old(path: Path, begin: int, size: int) -> bytes:
    """What lies where a tensor should, in the damaged file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(size)
