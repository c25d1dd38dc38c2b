"""Full disks: every kind of writing on file systems of many sizes (needs root, to mount them).

    PYTHONPATH=tests python scripts/soak/disks.py                # about 15 minutes
    PYTHONPATH=tests python scripts/soak/disks.py --kind convert

On a disk that is too small a command ends with exit code 2 and one sentence (a build of the kernels: with the reference
and a warning), and nothing that it leaves looks right; with more room the same command succeeds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tiny_models import save_model

from spikeconv.verification.check import check_files

SIZES = 16
ENOUGH = 256 << 20
NATIVE = "from spikeconv.ops import native; backend = native.load('cpu'); print(backend.name, backend.why)"
FETCH = "import sys; from spikeconv.cli.app import main; from spikeconv.wheels import RWKV; print(RWKV.folder())"


class Disk:
    """A file system of a size that can grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self, size: int) -> None:
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path))

    def grow(self) -> None:
        self._run("mount", "-o", f"remount,size={ENOUGH}", str(self.path))

    def unmount(self) -> None:
        self._run("umount", str(self.path))

    def used(self) -> int:
        found = os.statvfs(self.path)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True)


Command = tuple[list[str], dict[str, str]]


def commands(base: Path, disk: Path) -> dict[str, Command]:
    """What is run, and with which environment."""
    source, text, spikeconv = base / "source", base / "text.txt", [sys.executable, "-m", "spikeconv"]
    quick = ["--text", str(text), "--steps", "2", "--window", "32", "--batch-size", "2", "--refit-tokens", "64", "-q"]
    cache = {"SPIKECONV_CACHE": str(disk / "cache")}
    tasks = ["--tasks", "piqa", "--limit", "2", "--data", "offline", "-q"]
    return {
        "convert": ([*spikeconv, "convert", str(source), "-o", str(disk / "out"), "-q"], {}),
        "finetune": ([*spikeconv, "finetune", str(source), "-o", str(disk / "out"), *quick], {}),
        "eval": ([*spikeconv, "eval", str(base / "converted"), "--output", str(disk / "results.json"), *tasks], {}),
        "kernels": ([sys.executable, "-c", NATIVE], cache),
        "download": ([sys.executable, "-c", FETCH], cache),
    }


def looks_wrong(kind: str, disk: Path) -> str | None:
    """What a command left that a later one could take for whole, or None."""
    if kind == "convert" and (disk / "out").exists() and not check_files(disk / "out").clean:
        return "a checkpoint that is not whole"
    if kind == "finetune" and (disk / "out").exists():
        return "a model"
    if kind == "eval" and (disk / "results.json").exists():
        return "results"
    return None


def run(kind: str, command: Command, disk: Disk, size: int) -> bool:
    """One size; whether it was enough."""
    arguments, more = command
    disk.mount(size)
    try:
        environment = {**os.environ, **more}
        result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        lines = [line for line in result.stderr.splitlines() if line.startswith(("error", "warning", "Traceback"))]
        enough = result.returncode == 0 and not (kind == "kernels" and result.stdout.startswith("reference"))
        if not enough:
            _check_refusal(kind, disk, size, result, lines)
            disk.grow()
            resume = ["--resume"] if kind == "finetune" and (disk.path / "out.training/state").exists() else []
            again = [*arguments, *resume]
            result = subprocess.run(again, env=environment, capture_output=True, text=True, check=False)
            if result.returncode or result.stdout.startswith("reference"):
                said = f"{result.stdout}{result.stderr[-2000:]}"
                raise SystemExit(f"FAILED: {kind} after {size} bytes, with room: {said}")
        return enough
    finally:
        disk.unmount()


def _check_refusal(
    kind: str, disk: Disk, size: int, result: subprocess.CompletedProcess[str], lines: list[str]
) -> None:
    """One sentence and exit code 2; without kernels, and for results that cannot be kept, the work goes on."""
    codes = {"kernels": (0,), "eval": (0, 2), "download": (1,)}.get(kind, (2,))
    refused = kind in ("kernels", "download") or (len(lines) == 1 and "Traceback" not in result.stderr)
    wrong = looks_wrong(kind, disk.path)
    if result.returncode not in codes or not refused or wrong:
        said = f"exit code {result.returncode}, {wrong}, {result.stderr[-2000:]}"
        raise SystemExit(f"FAILED: {kind} on {size} bytes: {said}")


def sweep(kind: str, command: Command, disk: Disk, say: Callable[[str], None]) -> None:
    disk.mount(ENOUGH)
    try:
        subprocess.run(command[0], env={**os.environ, **command[1]}, capture_output=True, check=True)
        needed = disk.used()
    finally:
        disk.unmount()
    sizes = [max(4096, int(needed * (step + 0.5) / SIZES) // 4096 * 4096) for step in range(SIZES)]
    enough = [run(kind, command, disk, size) for size in sizes]
    say(f"{kind}: {needed:,} bytes in the end; {SIZES} sizes from {sizes[0]:,} to {sizes[-1]:,}: {enough.count(False)} "
        "too small, each refused and made good with room")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", help="convert, finetune, eval, kernels, download")
    arguments = parser.parse_args()
    if os.getuid() != 0:
        raise SystemExit("mounting a file system needs root")
    with tempfile.TemporaryDirectory(prefix="disks-") as name:
        base = Path(name)
        save_model("llama", {"max_position_embeddings": 1024}, base / "source")  # PIQA has long answers
        (base / "text.txt").write_text("It was the best of times, it was the worst of times. " * 40)
        make = [sys.executable, "-m", "spikeconv", "convert", str(base / "source"), "-o", str(base / "converted"), "-q"]
        subprocess.run(make, check=True, capture_output=True)
        disk = Disk(base / "disk")
        for kind, command in commands(base, disk.path).items():
            if not arguments.kind or kind in arguments.kind:
                sweep(kind, command, disk, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
