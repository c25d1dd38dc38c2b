"""The CUDA kernels without a GPU: compiled by g++ over `kernels/cuda/emulate.h`, binding included, compared exactly.

Blocks run one after the other, the threads of a block as fibers; `order` is the order in which they run between
barriers, so that a missing barrier shows. Matrix instructions follow the fragment layout of the PTX ISA.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.ops import encoding
from spikeconv.ops.library import SCHEMAS

SOURCES = Path(__file__).parents[2] / "kernels" / "cuda"
KERNELS = ("encode", "panel", "dense_gemm", "dense_gemv", "events", "arrange")
OPS = ("rotate", "encode", "arrange", "accumulate", "linears")
LIBRARY = torch.library.Library("spikeconv_emulated", "DEF")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(scope="session")
def ops(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`torch.ops.spikeconv_emulated`, built from the sources of the CUDA back end."""
    build = tmp_path_factory.mktemp("emulated")
    home = Path(torch.__file__).parent
    common = ["g++", "-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas", "-DSPIKECONV_EMULATE"]
    torch_flags = ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{home}/include"]
    torch_flags.append(f"-I{home}/include/torch/csrc/api/include")
    objects = []
    for name in (*(f"{kernel}.cu" for kernel in KERNELS), "emulate.cpp", "ops.cpp"):
        objects.append(str(build / f"{name}.o"))
        flags = torch_flags if name == "ops.cpp" else []
        command = [*common, *flags, "-x", "c++", "-c", str(SOURCES / name), "-o", objects[-1]]
        subprocess.run(command, check=True, capture_output=True, text=True)
    library = build / "libemulated.so"
    subprocess.run(["g++", "-shared", *objects, "-o", library, f"-L{home}/lib", "-ltorch_cpu", "-lc10"], check=True)
    for name in OPS:
        LIBRARY.define(name + SCHEMAS[name][0])
    torch.ops.load_library(str(library))
    return torch.ops.spikeconv_emulated


@pytest.fixture(params=[0, 1, 7], ids=["ascending", "descending", "shuffled"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SPIKECONV_EMULATE_ORDER", str(request.param))
    return int(request.param)


# ---- weights and products --------------------------------------------------------------------------------------------


def pack(weight: Tensor, bits: int) -> Tensor:
    """[out, in] integers → the checkpoint's [out, ceil(in/8), bits] bytes."""
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 8)) & ((1 << bits) - 1)
    lanes = padded.unflatten(1, (-1, 8)).long()
    words = (lanes << (bits * torch.arange(8))).sum(-1)
    return torch.stack([(words >> 8 * b) & 255 for b in range(bits)], -1).to(torch.uint8)


def random_weight(out_features: int, in_features: int, bits: int) -> Tensor:
    half = 1 << (bits - 1)
    weight = torch.randint(-half, half, (out_features, in_features))
    weight[0], weight[-1] = -half, half - 1
    return weight


def random_counts(tokens: int, in_features: int, largest: int, lowest: int | None = None) -> Tensor:
    dtype = torch.int8 if largest <= 127 else torch.int16
    counts = torch.randint(-largest if lowest is None else lowest, largest + 1, (tokens, in_features))
    counts[torch.rand(counts.shape) < 0.4] = 0
    counts[0] = largest
    return counts.to(dtype)


def columns_of(weight: Tensor, bits: int) -> Tensor:
    """[in, ceil(out/2)] nibbles or [in, out] bytes, offset-binary."""
    stored = (weight + (1 << (bits - 1))).mT
    if bits > 4:
        return stored.to(torch.uint8)
    stored = torch.nn.functional.pad(stored, (0, stored.shape[1] % 2))
    return (stored[:, ::2] | stored[:, 1::2] << 4).to(torch.uint8)


def tiles_of(weight: Tensor, bits: int) -> Tensor:
    stored = torch.nn.functional.pad(weight + (1 << (bits - 1)), (0, -weight.shape[1] % 8, 0, -weight.shape[0] % 16))
    words = stored.unflatten(1, (-1, 4, 2)).unflatten(0, (-1, 16)).permute(0, 2, 4, 1, 3)  # [t][word][parity][16][4]
    return (words[:, :, 0] | words[:, :, 1] << 4 if bits <= 4 else words).to(torch.uint8)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("out_features", "in_features"), [(1, 1), (35, 27), (48, 64)])
def test_arrange(ops: Any, bits: int, out_features: int, in_features: int) -> None:
    weight = random_weight(out_features, in_features, bits)
    packed = pack(weight, bits)
    assert torch.equal(ops.arrange(packed, in_features, "columns"), columns_of(weight, bits))
    tiles = ops.arrange(packed, in_features, "tiles")
    wanted = tiles_of(weight, bits)
    # Where an input or output does not exist the kernel writes zeros, the expression above the offset.
    exists = torch.nn.functional.pad(torch.ones_like(weight), (0, -in_features % 8, 0, -out_features % 16))
    exists = exists.unflatten(1, (-1, 4, 2)).unflatten(0, (-1, 16)).permute(0, 2, 4, 1, 3) * 255
    mask = exists[:, :, 0] & 15 | exists[:, :, 1] & 240 if bits <= 4 else exists
    assert torch.equal(tiles, wanted & mask.byte())


CASES = [  # tokens, out, in, bits, largest count
    (1, 16, 8, 4, 7),
    (1, 50, 576, 4, 8),
    (1, 2051, 70, 4, 8),
    (1, 33, 90, 8, 127),
    (3, 130, 136, 4, 8),
    (4, 47, 203, 2, 3),
    (8, 64, 128, 8, 31),
    (8, 21, 75, 3, 255),
    (9, 70, 64, 4, 8),
    (40, 65, 100, 8, 127),
    (33, 129, 199, 4, 255),
    (130, 140, 330, 4, 8),
    (70, 256, 128, 6, 255),
    (129, 17, 513, 4, 15),
]


FORMS = [("packed", 0), ("tiles", 0), ("tiles", 1), ("tiles", 7), ("columns", 0), ("columns", 1), ("strided", 7)]


@pytest.mark.parametrize(("form", "order"), FORMS, indirect=["order"])
@pytest.mark.parametrize(("tokens", "out_features", "in_features", "bits", "largest"), CASES)
def test_accumulate(
    ops: Any, order: int, tokens: int, out_features: int, in_features: int, bits: int, largest: int, form: str
) -> None:
    weight = random_weight(out_features, in_features, bits)
    counts = random_counts(tokens, in_features, largest)
    wanted = (counts.long() @ weight.mT).int()
    held = pack(weight, bits)
    if form != "packed":
        held = ops.arrange(held, in_features, "tiles" if form == "tiles" else "columns")
    if form == "strided":  # columns of one matrix inside another, at an odd address
        wide = torch.full((in_features, held.shape[1] + 7), 0xFF, dtype=torch.uint8)
        wide[:, 3 : 3 + held.shape[1]] = held
        held = wide[:, 3 : 3 + held.shape[1]]
    executions = {"packed": ["auto", "dense", "events"], "tiles": ["auto", "dense"]}.get(
        form, ["auto", "dense", "events"]
    )
    for execution in executions:
        acc = ops.accumulate(counts, held, out_features, bits, largest, execution)
        assert torch.equal(acc, wanted), execution


@pytest.mark.parametrize(("tokens", "bits", "largest"), [(1, 4, 8), (3, 8, 3), (66, 4, 4), (2, 4, 200)])
@pytest.mark.parametrize("form", ["tiles", "columns"])
def test_unfold(ops: Any, tokens: int, bits: int, largest: int, form: str) -> None:
    weight, counts = random_weight(37, 83, bits), random_counts(tokens, 83, largest)
    held = ops.arrange(pack(weight, bits), 83, form)
    acc = ops.accumulate(counts, held, 37, bits, largest, "unfold")
    assert torch.equal(acc, (counts.long() @ weight.mT).int())


def test_misaligned_tiles_are_copied(ops: Any) -> None:
    weight, counts = random_weight(40, 64, 4), random_counts(2, 64, 8)
    tiles = ops.arrange(pack(weight, 4), 64, "tiles")
    memory = torch.empty(tiles.numel() + 4, dtype=torch.uint8)
    memory[4:] = tiles.flatten()
    acc = ops.accumulate(counts, memory[4:].view(tiles.shape), 40, 4, 8, "dense")
    assert torch.equal(acc, (counts.long() @ weight.mT).int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 5, 20, 70])
@pytest.mark.parametrize("form", ["tiles", "columns"])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "zero-point-and-bias"])
def test_linears(
    ops: Any, dtype: torch.dtype, tokens: int, form: str, extras: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKECONV_EMULATE_ORDER", str(tokens % 3))
    in_features, sizes = 104, (96, 33, 130)
    counts = random_counts(tokens, in_features, 15, 0 if extras else None).view(1, tokens, in_features)
    weights = [random_weight(size, in_features, 4) for size in sizes]
    scale, scales = torch.rand(1, tokens, 1) + 0.01, [torch.rand(size) * 0.1 for size in sizes]
    zero = torch.randint(0, 15, (1, tokens, 1), dtype=torch.int32) if extras else None
    sums = [w.sum(1).int() for w in weights] if extras else []
    biases = [torch.randn(size).to(dtype) for size in sizes] if extras else []
    held = [ops.arrange(pack(w, 4), in_features, form) for w in weights]
    for execution in ("auto", "dense", *(["events"] if form == "columns" else [])):
        outputs = ops.linears(counts, scale, zero, held, scales, sums, biases, 4, 15, dtype, execution)
        for i, weight in enumerate(weights):
            acc = (counts.long() @ weight.mT).int()
            if zero is not None:
                acc -= zero * sums[i]
            y = acc.float() * scale * scales[i]
            if biases:
                y = y + biases[i].float()
            assert torch.equal(outputs[i], y.to(dtype))


def test_more_members_than_a_launch_takes(ops: Any) -> None:
    counts, scale = random_counts(2, 16, 8), torch.ones(2, 1)
    weights = [random_weight(16 + i, 16, 4) for i in range(11)]
    for form in ("tiles", "columns"):
        held = [ops.arrange(pack(w, 4), 16, form) for w in weights]
        scales = [torch.ones(w.shape[0]) for w in weights]
        outputs = ops.linears(counts, scale, None, held, scales, [], [], 4, 8, torch.float32, "auto")
        for weight, y in zip(weights, outputs, strict=True):
            assert torch.equal(y, (counts.long() @ weight.mT).float())


def test_no_tokens(ops: Any) -> None:
    held = ops.arrange(pack(random_weight(16, 8, 4), 4), 8, "tiles")
    assert ops.accumulate(torch.empty(0, 8, dtype=torch.int8), held, 16, 4, 8, "auto").shape == (0, 16)
    with pytest.raises(RuntimeError, match="columns"):
        ops.accumulate(torch.zeros(1, 8, dtype=torch.int8), held, 16, 4, 8, "events")
    with pytest.raises(RuntimeError, match="bytes where"):
        ops.accumulate(torch.zeros(1, 8, dtype=torch.int8), held, 17, 4, 8, "auto")


# ---- encode ----------------------------------------------------------------------------------------------------------


def signs_of(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).float() * 2 - 1


ROTATIONS = [  # size, base orders, power
    (8, (), 8),
    (12, (12,), 1),
    (90, (), 2),
    (576, (36,), 16),
    (960, (60,), 16),
    (4096, (), 4096),
    (1536, (12,), 128),
    (29568 // 12, (28, 44), 2),
    (11008 // 4, (344,), 8),
    (200, (20,), 2),
]


@pytest.mark.parametrize(("size", "orders", "power"), ROTATIONS)
@pytest.mark.parametrize("memory", ["shared", "global"])
def test_rotate(
    ops: Any, order: int, size: int, orders: tuple[int, ...], power: int, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if memory == "global":
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", "2304")
    x, signs, bases = torch.randn(5, size), signs_of(size), [signs_of(m, m) for m in orders]
    assert torch.equal(ops.rotate(x, signs, bases, power), encoding.rotate(x, signs, bases, power))


ENCODES: list[dict[str, Any]] = [
    {"symmetric": True, "low": -8, "high": 7},
    {"symmetric": True, "low": -8, "high": 8, "clip": "two-sided", "threshold": 0.2},
    {"symmetric": False, "low": 0, "high": 15},
    {"symmetric": False, "low": 0, "high": 255, "clip": "relu", "threshold": 0.1},
    {"symmetric": False, "low": 0, "high": 15, "clip": "shifted", "threshold": 0.3},
]


@pytest.mark.parametrize("setting", ENCODES, ids=lambda s: f"{s['high']}-{s.get('clip', 'none')}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [75, 576, 2050])
@pytest.mark.parametrize("memory", ["shared", "global"])
def test_encode(
    ops: Any, setting: dict[str, Any], dtype: torch.dtype, size: int, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if memory == "global":
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", "2304")
    monkeypatch.setenv("SPIKECONV_EMULATE_ORDER", str(size % 3))
    x = torch.randn(6, size).to(dtype)
    x[1] = 0
    x[2, 3] = torch.nan
    x[3, 5] = torch.inf
    x[4] *= 1e-3
    gamma, epsilon = torch.randn(size), 1e-5
    rotated = size == 576
    signs, bases, power = (signs_of(size), [signs_of(36, 36)], 16) if rotated else (None, [], 1)
    clip, threshold = setting.get("clip", "none"), setting.get("threshold", 0.0)
    low, high, symmetric = setting["low"], setting["high"], setting["symmetric"]
    arguments = (signs, bases, power, gamma, epsilon, low, high, symmetric, 0.9, clip, threshold, True)
    for ours, wanted in zip(ops.encode(x, *arguments), encoding.encode(x, *arguments), strict=True):
        assert ours.dtype == wanted.dtype and torch.equal(ours.nan_to_num(-1), wanted.nan_to_num(-1))


def test_the_longest_inputs(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """53,248 = 52 · 1,024 inputs: the shared memory of a Hopper GPU just holds them."""
    for limit in (99 << 10, 232448):
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", str(limit))
        x, signs, bases = torch.randn(1, 53248), signs_of(53248), [signs_of(52, 52)]
        assert torch.equal(ops.rotate(x, signs, bases, 1024), encoding.rotate(x, signs, bases, 1024))
