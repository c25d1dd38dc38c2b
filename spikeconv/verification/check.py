"""Every byte of a checkpoint's weights against its record, and its settings: nothing is loaded or run.

`verify` proves what a checkpoint computes; this finds what a disk, a copy or a hand did to its files, tensor by tensor.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spikeconv.checkpoint.folder import read_record
from spikeconv.checkpoint.format import quantization_config
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import digest_within, sha256_of
from spikeconv.progress import Track, silent
from spikeconv.sources.json_file import read_json
from spikeconv.sources.tensor_files import tensor_spans
from spikeconv.sources.weight_files import INDEX, SINGLE

__all__ = ["CheckResult", "Damage", "check_files", "shard_headers", "shard_of", "tensor_digests"]


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
    result = CheckResult(str(path))
    digests, headers, places = tensor_digests(path, record), shard_headers(path, record), shard_of(path, record)
    shards = {name: _Shard(path / name, digest) for name, digest in headers.items()}
    with ThreadPoolExecutor(thread_name_prefix="check") as pool:
        found = pool.map(lambda name: _of_tensor(shards.get(places.get(name, "")), name, digests[name]), digests)
        damages = [damage for damage in track(found, "checking tensors", len(digests)) if damage is not None]
    for name, shard in shards.items():
        own = [damage for damage in damages if damage.file == name]
        result.damages += own or shard.damages()
        result.bytes += shard.size
        shard.close()
    for name, digest in record["files"].items():
        if not (path / name).is_file():
            result.damages.append(Damage(name, None, "is missing"))
        elif sha256_of(path / name) != digest:
            result.damages.append(Damage(name, None, "has other bytes"))
    result.files, result.tensors = len(shards) + len(record["files"]), len(digests)
    result.damages += [damage for damage in damages if damage.file == INDEX]
    result.damages += _settings(path, record)
    return result


class _Shard:
    """A shard of a checkpoint, as far as it can be read."""

    def __init__(self, path: Path, header: str) -> None:
        self.path, self.what = path, ""
        self.file, self.size, self.spans = -1, 0, dict[str, tuple[int, int]]()
        try:
            self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self.file).st_size
            self.spans = tensor_spans(path)
        except FileNotFoundError:
            self.what = "is missing"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self.what = "has a header that cannot be read"
        else:
            begin = min((begin for begin, _ in self.spans.values()), default=self.size)
            end = max((end for _, end in self.spans.values()), default=self.size)
            if digest_within(self.file, 0, begin) != header or end != self.size:
                self.what = "has another header or more bytes"

    @property
    def is_readable(self) -> bool:
        return bool(self.spans)

    def damages(self) -> list[Damage]:
        """What is wrong with it as a whole."""
        return [Damage(self.path.name, None, self.what)] if self.what else []

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)


def _of_tensor(shard: _Shard | None, name: str, digest: str) -> Damage | None:
    """What is wrong with one tensor, where its shard can be read."""
    if shard is None:
        return Damage(INDEX, name, "is in no file of the record")
    if not shard.is_readable:
        return None
    if name not in shard.spans:
        return Damage(shard.path.name, name, "is missing")
    same = digest_within(shard.file, *shard.spans[name]) == digest
    return None if same else Damage(shard.path.name, name, "has other bytes")


def tensor_digests(path: Path, record: dict[str, Any]) -> dict[str, str]:
    """The hash of every tensor, from the record.

    Raises:
        SpikeconvError: it has none.
    """
    return _hashes(path, record, "tensors")


def shard_headers(path: Path, record: dict[str, Any]) -> dict[str, str]:
    """The hash of what every shard has in front of its tensors, from the record.

    Raises:
        SpikeconvError: it has none.
    """
    return _hashes(path, record, "headers")


def _hashes(path: Path, record: dict[str, Any], of: str) -> dict[str, str]:
    found = record.get(of)
    if not isinstance(found, dict) or not found:
        raise SpikeconvError(f"{path} has no hashes of {of} in its record; convert the model again.")
    return {str(name): str(digest) for name, digest in found.items()}


def shard_of(path: Path, record: dict[str, Any]) -> dict[str, str]:
    """The file of every tensor: of the index, or the only one."""
    if SINGLE in shard_headers(path, record):
        return dict.fromkeys(tensor_digests(path, record), SINGLE)
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise SpikeconvError(f"{path / INDEX} has no weight_map; convert the model again.")
    return {str(name): str(file) for name, file in weight_map.items()}


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
