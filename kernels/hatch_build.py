"""Build hook: put the native kernels into the wheel where that is possible, and never fail for lack of a compiler.

Without a compiler, or without torch at hand, the wheel carries the sources only, and the kernels are built at first
use. An editable installation always builds at first use, so that a change of the sources is never overlooked.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CUDA_ARCHITECTURES = ("80", "90", "100", "120")


class NativeKernels(BuildHookInterface):
    """Compiles `libspikeconv_cpu.so`, and `libspikeconv_cuda.so` where nvcc is found."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built."""
        if version == "editable":
            return
        build = _load(Path(self.root) / "spikeconv" / "ops" / "build.py")
        folder = Path(self.directory) / "native"
        jobs = [("cpu", lambda library: build.build_cpu(library))]
        if build.cuda_compiler():
            jobs.append(("cuda", lambda library: build.build_cuda(library, CUDA_ARCHITECTURES)))
        for device, compile_to in jobs:
            library = folder / f"libspikeconv_{device}.so"
            try:
                compile_to(library)
            except build.BuildError as error:
                print(f"spikeconv: the {device} kernels will be built at first use ({error})", file=sys.stderr)
                continue
            build_data["force_include"][str(library)] = f"spikeconv/_native/{library.name}"
            build_data["pure_python"] = False
            # LibTorch's stable ABI has no Python symbols: one library serves every Python.
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _load(path: Path) -> ModuleType:
    """The build script by itself; importing the package would need its dependencies."""
    spec = importlib.util.spec_from_file_location("spikeconv_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
