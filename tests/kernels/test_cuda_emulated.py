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

from spikeconv.ops import attention, encoding
from spikeconv.ops.library import SCHEMAS
from spikeconv.rotation import Rotation

SOURCES = Path(__file__).parents[2] / "kernels" / "cuda"
KERNELS = ("encode", "panel", "dense_gemm", "dense_gemv", "events", "arrange", "rows", "attend")
BINDINGS = ("ops.cpp", "ops_attention.cpp")
OPS = ("rotate", "encode", "arrange", "accumulate", "linears", "encode_rows", "attend")
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


# ---- attention -------------------------------------------------------------------------------------------------------

CODES = pytest.mark.parametrize("symmetric", [True, False], ids=["signed", "unsigned"])
BITS = pytest.mark.parametrize("bits", range(2, 9))
RATIOS = [1.0, 0.95, 0.9, 0.7]


def any_order(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKECONV_EMULATE_ORDER", str((0, 1, 7)[number % 3]))


@BITS
@CODES
@pytest.mark.parametrize(
    ("head_dim", "group"), [(7, 7), (15, 5), (20, 20), (36, 12), (64, 8), (80, 80), (128, 128), (256, 64), (512, 512)]
)
def test_encode_rows(
    ops: Any, bits: int, symmetric: bool, head_dim: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_order(bits, monkeypatch)
    x = torch.randn(2, 3, 3, head_dim) * torch.logspace(-3, 3, 9).view(3, 3, 1)
    x[0, 0, 0], x[0, 0, 1, 1], x[0, 1, 1, 0] = 0, torch.nan, torch.inf
    x[1, 2, 2] *= 1e30  # errors are infinite, and so none is less than the first
    arguments = (*Rotation(head_dim, 2).on(x.device), bits, group, symmetric, RATIOS, True)
    rows, statistics = ops.encode_rows(x, *arguments)
    expected, expected_statistics = attention.encode_rows(x, *arguments)
    number = torch.ones(2, 3, 3, dtype=torch.bool)
    number[0, 0, 1] = number[0, 1, 1] = False  # of others only that they are none is promised
    assert torch.equal(rows[number], expected[number]) and torch.equal(statistics, expected_statistics)
    found, wanted = (unpack(r[~number], head_dim, bits, group, symmetric)[1] for r in (rows, expected))
    assert torch.equal(found.isfinite(), wanted.isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("head_dim", "group"), [(20, 4), (128, 128)])
def test_encode_rows_in_any_order(ops: Any, order: int, dtype: torch.dtype, head_dim: int, group: int) -> None:
    x = torch.randn(3, 7, head_dim, 2).to(dtype).mT  # not contiguous
    for ratios in ([1.0], RATIOS):
        arguments = (*Rotation(head_dim, 2).on(x.device), 4, group, True, ratios, False)
        for ours, wanted in zip(ops.encode_rows(x, *arguments), attention.encode_rows(x, *arguments), strict=True):
            assert torch.equal(ours, wanted)


def unpack(rows: Tensor, head_dim: int, bits: int, group: int, symmetric: bool) -> list[Tensor]:
    """Counts, scales and zero points, those of signed counts being 0."""
    counts, scale, zero = attention.unpack_rows(rows, head_dim, bits, group, symmetric)
    return [counts, scale, torch.zeros_like(scale) if zero is None else zero]


def random_rows(
    heads: int, length: int, head_dim: int, bits: int, group: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Rows of keys and of values of a batch of two."""
    arguments = (*Rotation(head_dim, 2).on(torch.device("cpu")), bits, group, symmetric, [1.0, 0.9], False)
    keys, values = (attention.encode_rows(torch.randn(2, heads, length, head_dim), *arguments)[0] for _ in range(2))
    return keys, values


def exact_attention(query: Tensor, rows: Any, mask: Tensor | None, scaling: float, *code: Any) -> Tensor:
    keys, values = (
        ((counts.double() - zero) * scale.double()).flatten(-2).repeat_interleave(query.shape[1] // r.shape[1], 1)
        for r in rows
        for counts, scale, zero in [unpack(r, query.shape[-1], *code)]
    )
    scores = query.double() @ keys.mT * scaling
    return (scores if mask is None else scores + mask.double()).softmax(-1) @ values


def assert_attends(ops: Any, query: Tensor, rows: Any, mask: Tensor | None, *code: Any, executions: Any) -> None:
    expected = exact_attention(query, rows, mask, 0.2, *code)
    bound = 2e-5 * expected.nan_to_num(0).abs().max().item()
    for execution in executions:
        y = ops.attend(query, *rows, mask, 0.2, *code, execution)
        assert y.dtype == torch.float32 and y.shape == query.shape
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=bound, equal_nan=True)


@BITS
@CODES
@pytest.mark.parametrize(("head_dim", "group"), [(7, 7), (15, 5), (20, 20), (64, 16), (128, 128)])
def test_attend_to_any_code(
    ops: Any, bits: int, symmetric: bool, head_dim: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_order(bits, monkeypatch)
    code = (bits, group, symmetric)
    rows = random_rows(2, 37, head_dim, *code)
    assert_attends(ops, torch.randn(2, 4, 3, head_dim), rows, None, *code, executions=("dense", "unfold"))


def mask_of(kind: str, heads: int, tokens: int, length: int) -> Tensor | None:
    least = torch.finfo(torch.float32).min
    mask = torch.randn(2, heads, tokens, length)
    if kind == "none":
        return None
    if kind == "of-positions":
        return mask[0, 0, 0]
    if kind == "of-sequences":
        return mask[:, :1, :1]
    if kind == "infinite":  # the first tile of all queries, and all of one query
        mask[..., : min(130, length - 1)] = -torch.inf
        mask[0, 0, -1] = -torch.inf
    if kind == "least":
        mask[..., : min(130, length - 1)] = least
        mask[1, :, 0] = least
    return mask


@pytest.mark.parametrize("kind", ["none", "of-positions", "of-sequences", "infinite", "least"])
@pytest.mark.parametrize(
    ("tokens", "repeats", "length"), [(1, 1, 300), (1, 4, 300), (3, 3, 140), (40, 2, 150), (3, 1, 1)]
)
def test_attend(ops: Any, kind: str, tokens: int, repeats: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    any_order(len(kind), monkeypatch)  # all three occur
    code = (4, 20, True)
    query, rows = torch.randn(2, 2 * repeats, tokens, 20), random_rows(2, length, 20, *code)
    mask = mask_of(kind, 2 * repeats, tokens, length)
    assert_attends(ops, query, rows, mask, *code, executions=("auto", "unfold") if tokens == 3 else ("auto",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask_dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_attend_in_any_dtype(ops: Any, dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    query = torch.randn(2, 3, 4, 24).to(dtype).transpose(1, 2)  # not contiguous
    mask = torch.randn(4, 3, 50).mT.to(mask_dtype).mT
    assert_attends(ops, query, random_rows(2, 50, 24, 8, 8, False), mask, 8, 8, False, executions=["dense"])


@pytest.mark.parametrize("symmetric", [True, False])  # rows of whole words, and at odd addresses
def test_attend_to_a_part_of_a_cache(ops: Any, symmetric: bool) -> None:
    code = (4, 32, symmetric)
    rows = random_rows(3, 60, 32, *code)
    cached = []
    for part in rows:
        cache = torch.full((2, 80, 4, part.shape[-1]), 0xFF, dtype=torch.uint8)
        cache[:, 7:67, 1:] = part.transpose(1, 2)
        cached.append(cache[:, 7:67, 1:].transpose(1, 2))
    query = torch.randn(2, 3, 2, 32)
    assert torch.equal(
        ops.attend(query, *cached, None, 0.2, *code, "dense"), ops.attend(query, *rows, None, 0.2, *code, "dense")
    )
    assert_attends(ops, query, cached, None, *code, executions=["dense"])


def test_attend_to_a_long_past(ops: Any) -> None:
    """More positions than 64 splits of two tiles."""
    rows = [part[:1].repeat(1, 1, 30, 1) for part in random_rows(1, 550, 8, 4, 8, True)]
    assert_attends(ops, torch.randn(1, 1, 1, 8), rows, None, 4, 8, True, executions=["dense"])


def test_attend_to_rows_of_many_scales(ops: Any) -> None:
    """A tile of 128 of these would not fit into shared memory."""
    assert_attends(
        ops, torch.randn(2, 1, 2, 512), random_rows(1, 21, 512, 8, 2, False), None, 8, 2, False, executions=["dense"]
    )


def test_no_number_spreads_as_in_the_reference(ops: Any) -> None:
    rows = random_rows(2, 9, 16, 4, 16, True)
    rows[0][0, 1, 3, -4:] = rows[1][1, 0, 5, -4:] = 255  # NaN as a key's and as a value's scale
    query = torch.randn(2, 4, 3, 16)
    y, expected = (f(query, *rows, None, 0.2, 4, 16, True, "dense") for f in (ops.attend, attention.attend))
    assert torch.equal(y.isnan(), expected.isnan()) and 0 < y.isnan().sum() < y.numel()


def test_attend_to_nothing_and_to_other_rows(ops: Any) -> None:
    keys, values = random_rows(2, 5, 16, 4, 16, True)
    query = torch.randn(2, 4, 3, 16)
    assert not ops.attend(query, keys[:, :, :0], values[:, :, :0], None, 0.2, 4, 16, True, "dense").any()
    assert ops.attend(query[:, :, :0], keys, values, None, 0.2, 4, 16, True, "dense").shape == (2, 4, 0, 16)
    with pytest.raises(RuntimeError, match="expected rows"):
        ops.attend(query, keys, values, None, 0.2, 5, 16, True, "dense")
    with pytest.raises(RuntimeError, match="do not divide"):
        ops.attend(query, keys, values, None, 0.2, 4, 12, True, "dense")
    with pytest.raises(RuntimeError, match="a mask of 4"):
        ops.attend(query, keys, values, torch.zeros(4), 0.2, 4, 16, True, "dense")
