"""Every byte of a checkpoint's weights against its record, and its settings: nothing is loaded or run.

`verify` proves what a checkpoint computes; this finds what a disk, a copy or a hand did to its files, tensor by tensor.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spikeconv.checkpoint.folder import read_record
from spikeconv.checkpoint.format import quantization_config
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import sha256_of
from spikeconv.progress import Track, silent
from spikeconv.sources.json_file import read_json
from spikeconv.sources.tensor_files import tensor_spans
from spikeconv.sources.weight_files import INDEX, SINGLE

__all__ = ["CheckResult", "Damage", "check_files", "shard_of", "tensor_digests"]


@dataclass(frozen=True)
class Damage:
    """What is not as it was written.

    Attributes:
        file: name in the checkpoint.
        tensor: the tensor, or None: the file as a whole.
        what: in words.
    """

    file: str
    tensor: str | None
    what: str


@dataclass
class CheckResult:
    """What was looked at, and found."""

    path: str
    files: int = 0
    tensors: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything is as it was written."""
        return not self.damages

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "clean": self.clean}


def check_files(path: Path, track: Track = silent) -> CheckResult:
    """Compare a checkpoint's files with its record.

    Raises:
        SpikeconvError: it has no record, or one that is damaged or of a version without hashes of tensors.
    """
    record = read_record(path)
    digests = tensor_digests(path, record)
    places = shard_of(path, record)
    result = CheckResult(str(path))
    files: dict[str, str] = record["files"]
    for name in track(files, "checking files", len(files)):
        result.files += 1
        of_file = {tensor: digest for tensor, digest in digests.items() if places.get(tensor) == name}
        result.tensors += len(of_file)
        if not (path / name).is_file():
            result.damages.append(Damage(name, None, "is missing"))
            continue
        result.bytes += (path / name).stat().st_size
        if sha256_of(path / name) != files[name]:
            result.damages += _inside(path / name, of_file)
    lost = sorted(tensor for tensor in digests if places.get(tensor) not in files)
    result.damages += [Damage(INDEX, tensor, "is in no file of the record") for tensor in lost]
    result.damages += _settings(path, record)
    return result


def tensor_digests(path: Path, record: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of every tensor, from the record.

    Raises:
        SpikeconvError: it has none.
    """
    digests = record.get("tensors")
    if not isinstance(digests, dict) or not digests:
        raise SpikeconvError(f"{path} has no hashes of tensors in its record; convert the model again.")
    return {str(name): str(digest) for name, digest in digests.items()}


def shard_of(path: Path, record: dict[str, Any]) -> dict[str, str]:
    """The file of every tensor: of the index, or the only one."""
    if SINGLE in record["files"]:
        return dict.fromkeys(tensor_digests(path, record), SINGLE)
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise SpikeconvError(f"{path / INDEX} has no weight_map; convert the model again.")
    return {str(name): str(file) for name, file in weight_map.items()}


def _inside(path: Path, digests: dict[str, str]) -> list[Damage]:
    """What is wrong in a file whose bytes are not those written."""
    try:
        found = dict(_digests(path))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [Damage(path.name, None, "has a header that cannot be read")]
    damages = [
        Damage(path.name, name, "has other bytes" if name in found else "is missing")
        for name, digest in digests.items()
        if found.get(name) != digest
    ]
    return damages or [Damage(path.name, None, "has another header or more bytes")]


def _digests(path: Path) -> Iterator[tuple[str, str]]:
    spans = tensor_spans(path)
    with path.open("rb") as file:
        for name, (begin, end) in spans.items():
            file.seek(begin)
            yield name, hashlib.sha256(file.read(end - begin)).hexdigest()


def _settings(path: Path, record: dict[str, Any]) -> list[Damage]:
    """Whether `config.json` has the settings of the record; measured shares of zeros are noted later and may differ."""
    try:
        found = dict(read_json(path / "config.json").get("quantization_config") or {})
    except (SpikeconvError, TypeError, ValueError):
        return [Damage("config.json", None, "cannot be read")]
    found.pop("zero_share", None)
    wanted = quantization_config(SpikeConfig.parse(record["config"]))
    wrong = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return [Damage("config.json", None, f"has another quantization_config: {', '.join(wrong[:3])}")] if wrong else []
