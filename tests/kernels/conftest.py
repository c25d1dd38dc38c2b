"""The CUDA kernels without a GPU: compiled by g++ over `kernels/cuda/emulate.h`, binding included, compared exactly.

Blocks run one after the other, the threads of a block as fibers; an order is that in which they run between barriers,
so that a missing barrier shows. Matrix instructions follow the fragment layout of the PTX ISA.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeconv.ops.library import SCHEMAS

SOURCES = Path(__file__).parents[2] / "kernels" / "cuda"
KERNELS = ("encode", "panel", "dense_gemm", "dense_gemv", "events", "arrange", "rows", "attend")
BINDINGS = ("ops.cpp", "ops_attention.cpp")
OPS = ("rotate", "encode", "arrange", "accumulate", "linears", "encode_rows", "attend")
LIBRARY = torch.library.Library("spikeconv_emulated", "DEF")


@pytest.fixture(scope="session")
def ops(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`torch.ops.spikeconv_emulated`, built from the sources of the CUDA back end."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    build = tmp_path_factory.mktemp("emulated")
    home = Path(torch.__file__).parent
    common = ["g++", "-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas", "-DSPIKECONV_EMULATE"]
    torch_flags = ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{home}/include"]
    torch_flags.append(f"-I{home}/include/torch/csrc/api/include")
    objects = []
    for name in (*(f"{kernel}.cu" for kernel in KERNELS), "emulate.cpp", *BINDINGS):
        objects.append(str(build / f"{name}.o"))
        flags = torch_flags if name in BINDINGS else []
        command = [*common, *flags, "-x", "c++", "-c", str(SOURCES / name), "-o", objects[-1]]
        subprocess.run(command, check=True, capture_output=True, text=True)
    library = build / "libemulated.so"
    subprocess.run(["g++", "-shared", *objects, "-o", library, f"-L{home}/lib", "-ltorch_cpu", "-lc10"], check=True)
    for name in OPS:
        LIBRARY.define(name + SCHEMAS[name][0])
    torch.ops.load_library(str(library))
    return torch.ops.spikeconv_emulated


ORDERS = (0, 1, 7)  # ascending, descending, shuffled


@pytest.fixture
def any_order(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets one of the orders by any number."""
    return lambda number: monkeypatch.setenv("SPIKECONV_EMULATE_ORDER", str(ORDERS[number % 3]))
