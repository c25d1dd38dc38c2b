"""The CUDA kernels as machine code, without a GPU: no spills, the intended instructions, nothing emulated.

Opcodes are read from the cubin itself: an instruction takes 16 bytes on every architecture since Volta, and its low 12
bits say what it is (checked once against nvdisasm 13.5, which nvcc does not bring along).
"""

import re
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "kernels" / "cuda"
KERNELS = ("encode", "panel", "dense_gemm", "dense_gemv", "events", "arrange", "rows", "attend")
OPCODES = {
    0x223: "FFMA",
    0x237: "IMMA",
    0x226: "IDP",
    0xA26: "IDP",  # one operand in constant memory
    0xC26: "IDP",  # … in a uniform register
    0x98E: "RED",
    0x3A8: "ATOMG",
    0x9A8: "ATOMG",
    0x38C: "ATOMS",
    0x806: "VOTE",
    0x983: "LDL",
    0x387: "STL",
    0xFAE: "LDGSTS",
}


def nvcc() -> str | None:
    return shutil.which("nvcc") or next((p for p in ("/usr/local/cuda/bin/nvcc",) if Path(p).exists()), None)


pytestmark = pytest.mark.skipif(nvcc() is None, reason="no nvcc")


class Cubin:
    """Machine code of one source file, and what ptxas said about it."""

    def __init__(self, path: Path, log: str) -> None:
        self.log = log
        self.code: dict[str, Counter[str]] = {}
        self.data = data = path.read_bytes()
        start, size, count, names = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<3H", data, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
        text = data[headers[names][4] :]
        for header in headers:
            name = text[header[0] : text.index(b"\0", header[0])].decode()
            if name.startswith(".text."):
                words = struct.unpack_from(f"<{header[5] // 8}Q", data, header[4])[::2]
                self.code[name[6:]] = Counter(OPCODES.get(word & 0xFFF, "other") for word in words)

    def kernels(self, name: str) -> dict[str, Counter[str]]:
        found = {symbol: code for symbol, code in self.code.items() if name in symbol}
        assert found, f"no kernel {name} among {list(self.code)}"
        return found


@pytest.fixture(scope="session", params=["sm_80", "sm_90"])
def cubins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cubin]:
    build, result = tmp_path_factory.mktemp(request.param), {}
    for name in KERNELS:
        path = build / f"{name}.cubin"
        command = [nvcc(), "-std=c++20", "-O3", "-fmad=false", "-Xptxas", "-v", "-cubin", f"-arch={request.param}"]
        run = subprocess.run([*command, "-o", path, SOURCES / f"{name}.cu"], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        result[name] = Cubin(path, run.stderr)
    return result


@pytest.mark.parametrize("name", KERNELS)
def test_no_kernel_spills_or_has_a_stack(cubins: dict[str, Cubin], name: str) -> None:
    numbers = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", cubins[name].log
    )
    assert len(numbers) >= len(cubins[name].code) > 0
    assert all(number == ("0", "0", "0") for number in numbers), cubins[name].log
    for kernel, code in cubins[name].code.items():
        assert not code["LDL"] and not code["STL"], kernel


def test_the_product_runs_on_int8_tensor_cores(cubins: dict[str, Cubin]) -> None:
    kernels = cubins["dense_gemm"].kernels("dense_gemm_kernel")
    # Two mma per stage and pair of a tile and a token group: 2 · 2 · 8 in the large shape, 2 · 1 · 2 in the small one.
    assert sorted(code["IMMA"] for code in kernels.values()) == [4, 4, 32, 32]
    assert all(code["LDGSTS"] for code in kernels.values())
    # 4-bit tensor cores exist up to Ampere only; behind them the compiler calls __cuda_sm_9x_mma_sub_byte_….
    assert b"mma_sub_byte" not in cubins["dense_gemm"].data


def test_few_tokens_are_multiplied_by_dp4a(cubins: dict[str, Cubin]) -> None:
    for kernel, code in cubins["dense_gemv"].kernels("dense_gemv_kernel").items():
        assert code["IDP"] >= 10, kernel  # 4 outputs × (even, odd), and the sum of the counts


def test_events_add_atomically_without_waiting(cubins: dict[str, Cubin]) -> None:
    for kernel, code in cubins["events"].kernels("events_kernel").items():
        assert code["RED"] == 8, kernel
        assert code["VOTE"] >= 1, kernel
        assert not code["ATOMG"] and not code["ATOMS"], kernel
    for kernel, code in cubins["encode"].kernels("encode_kernel").items():
        assert code["RED"], kernel  # a block's histogram is added to everyone's
    for kernel, code in cubins["rows"].kernels("encode_rows_kernel").items():
        assert code["RED"], kernel


def test_attention_copies_rows_asynchronously_and_fuses_its_products(cubins: dict[str, Cubin]) -> None:
    kernels = cubins["attend"].kernels("attend_kernel")
    assert len(kernels) == 5  # words for 1, 4 and 8 queries, inputs, spikes
    assert all(code["LDGSTS"] for code in kernels.values())
    # Eight inputs of a key and eight of a value for every query; spikes are added up.
    fused = sorted(code["FFMA"] for code in kernels.values())
    assert fused[-3:] == [16, 64, 128] and fused[0] == 0
