"""Compiles the native kernels with the machine's own compiler: at installation, or at first use.

Only the standard library is imported, so that the build hook can run this file where nothing is installed yet. Every
instruction set is a translation unit with its own flags; the processor is asked at run time which one to use.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "BUILDING",
    "BuildError",
    "build_cpu",
    "build_cuda",
    "compiler",
    "cuda_compiler",
    "digest",
    "find_torch",
    "sources",
]

STANDARD = ("-std=c++20", "-fPIC", "-fvisibility=hidden")
# Sums keep their order and stay unfused, so that all instruction sets give the same bits.
# Aligned, so that a change elsewhere in a file does not move a hot loop across cache lines (5% on rounding).
KERNEL = ("-O3", "-ffp-contract=off", "-Wno-psabi", "-falign-functions=64", "-falign-loops=32")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mbmi2", "-mfma", "-mf16c")
X86 = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512vnni": AVX512,
    "amx": AVX512,
}
AMX = ("-mamx-tile", "-mamx-int8", "-mamx-bf16")
"""Not known to every compiler."""
CUDA = ("-std=c++20", "-O3", "-fmad=false", "-DUSE_CUDA", "-Xcompiler", "-fPIC", "-cudart", "static")
BUILDING = ".build-"
"""What work folders are called."""
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10, the oldest that we support


class BuildError(Exception):
    """Why there is no library; one sentence."""


def sources() -> Path:
    """The folder with the kernels: in a checkout beside the package, in an installation inside it."""
    package = Path(__file__).parents[1]
    inside = package / "kernels"
    return inside if inside.is_dir() else package.parent / "kernels"


def digest(device: str) -> str:
    """Names the sources of one device's kernels: a library is good for exactly one state of them."""
    folders = (sources() / "common", sources() / device)
    files = [Path(__file__), *(path for folder in folders for path in sorted(folder.iterdir()) if path.is_file())]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def compiler() -> str | None:
    """The C++ compiler: $CXX, g++, clang++ or c++."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))), None)


def find_torch() -> Path | None:
    """The folder of torch: importable, or installed in the environment that an isolated build is for."""
    spec = find_spec("torch")
    installed = [Path(sysconfig.get_path(name)) / "torch" for name in ("platlib", "purelib")]
    found = [Path(path) for path in spec.submodule_search_locations or ()] if spec else []
    return next((path for path in (*found, *installed) if (path / "include" / "torch").is_dir()), None)


def build_cpu(library: Path, extra: Sequence[str] = ()) -> None:
    """Compile the CPU kernels to a shared library.

    Args:
        library: where it goes; replaced in one step.
        extra: more compiler and linker flags (a sanitizer's, say).

    Raises:
        BuildError: no compiler, no torch, or errors.
    """
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler was found (g++ or clang++)")
    headers, libraries = _torch_flags()
    units: dict[str, tuple[str, ...]] = {"portable": KERNEL}
    if platform.machine() in {"x86_64", "AMD64"}:
        units |= {name: (*KERNEL, *flags) for name, flags in X86.items()}
        if _knows(cxx, AMX):
            units["amx"] += AMX
    binding = (
        *(
            "run",
            "run_dense",
            "run_events",
            "run_rows",
            "run_head",
            "plan",
            "engine",
            "engine_rows",
            "recurrent",
            "pool",
            "places",
        ),
        *("ops", "ops_rows", "ops_limits", "ops_engine", "ops_head", "ops_recurrent"),
    )
    units |= {"dispatch": ("-O2",)} | {name: ("-O2", "-ffp-contract=off", *headers) for name in binding}
    with _replacing(library) as linked:
        objects = {name: linked.parent / f"{name}.o" for name in units}
        commands = [
            [cxx, *STANDARD, *flags, *extra, "-c", str(sources() / "cpu" / f"{name}.cpp"), "-o", str(objects[name])]
            for name, flags in units.items()
        ]
        _run(commands)
        _run([[cxx, "-shared", *extra, *map(str, objects.values()), *libraries, "-o", str(linked)]])


def _knows(cxx: str, flags: Sequence[str]) -> bool:
    command = [cxx, *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return _ended(command).returncode == 0


def cuda_compiler() -> str | None:
    """nvcc: on the path, or in $CUDA_HOME or /usr/local/cuda."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(home / "bin"))


def build_cuda(library: Path, architectures: Sequence[str]) -> None:
    """Compile the CUDA kernels for some architectures ("80", "90", …).

    Raises:
        BuildError: no nvcc, no torch, or errors.
    """
    nvcc = cuda_compiler()
    if nvcc is None:
        raise BuildError("nvcc was not found")
    headers, libraries = _torch_flags()
    folder = sources() / "cuda"
    files = [str(path) for path in (*sorted(folder.glob("*.cu")), *sorted(folder.glob("ops*.cpp")))]
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    with _replacing(library) as linked:
        _run([[nvcc, "-shared", *CUDA, *headers, *codes, *files, *libraries, "-o", str(linked)]])


def _torch_flags() -> tuple[list[str], list[str]]:
    """How to compile against torch's stable ABI, and how to link."""
    torch = find_torch()
    if torch is None:
        raise BuildError("torch's headers were not found")
    include = torch / "include"
    headers = [STABLE_ABI, f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    return headers, [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]


@contextmanager
def _replacing(library: Path) -> Iterator[Path]:
    """A path in a folder of its own whose file becomes the library, whole or not at all."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=BUILDING) as scratch:
        linked = Path(scratch) / library.name
        yield linked
        os.replace(linked, library)


def _run(commands: list[list[str]]) -> None:
    """Run commands, as many side by side as there are processors; the first failure becomes a BuildError."""
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for command, done in zip(commands, pool.map(_ended, commands), strict=True):
            if done.returncode:
                said = done.stderr.splitlines()
                lines = [line for line in said if "error" in line] or said or ["no message"]
                raise BuildError(f"{Path(command[0]).name} failed: {lines[0].strip()}")
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for those that have not begun


def _ended(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    build_cpu(Path(sys.argv[1]), sys.argv[2:])
