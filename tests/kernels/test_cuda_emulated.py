"""The CUDA kernels without a GPU: compiled by g++ over `kernels/cuda/emulate.h`, binding included, compared exactly.

Blocks run one after the other, the threads of a block as fibers; `order` is the order in which they run between
barriers, so that a missing barrier shows. Matrix instructions follow the fragment layout of the PTX ISA.
"""

import shutil
import subprocess
from collections.abc import Callable
from itertools import product as every
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.codes import CODES
from spikeconv.ops import EncodeSettings, ProductSettings, RowSettings, attention, encoding
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


ORDERS = (0, 1, 7)  # ascending, descending, shuffled


@pytest.fixture
def any_order(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets one of the orders by any number."""
    return lambda number: monkeypatch.setenv("SPIKECONV_EMULATE_ORDER", str(ORDERS[number % 3]))


def product(bits: int, largest: int, execution: str = "auto", membrane: str = "add") -> list[float]:
    return ProductSettings(bits, largest, execution, membrane).table()


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


def test_arrange(ops: Any) -> None:
    for bits, (out_features, in_features) in every((2, 3, 4, 5, 8), ((1, 1), (35, 27), (48, 64))):
        weight = random_weight(out_features, in_features, bits)
        packed = pack(weight, bits)
        assert torch.equal(ops.arrange(packed, in_features, "columns"), columns_of(weight, bits)), bits
        tiles = ops.arrange(packed, in_features, "tiles")
        wanted = tiles_of(weight, bits)
        # Where an input or output does not exist the kernel writes zeros, the expression above the offset.
        exists = torch.nn.functional.pad(torch.ones_like(weight), (0, -in_features % 8, 0, -out_features % 16))
        exists = exists.unflatten(1, (-1, 4, 2)).unflatten(0, (-1, 16)).permute(0, 2, 4, 1, 3) * 255
        mask = exists[:, :, 0] & 15 | exists[:, :, 1] & 240 if bits <= 4 else exists
        assert torch.equal(tiles, wanted & mask.byte()), bits


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


FORMS = [("packed", 0), ("tiles", 0), ("tiles", 1), ("tiles", 2), ("columns", 0), ("columns", 1), ("strided", 2)]


@pytest.mark.parametrize(("tokens", "out_features", "in_features", "bits", "largest"), CASES)
def test_accumulate(
    ops: Any,
    any_order: Callable[[int], None],
    tokens: int,
    out_features: int,
    in_features: int,
    bits: int,
    largest: int,
) -> None:
    weight = random_weight(out_features, in_features, bits)
    counts = random_counts(tokens, in_features, largest)
    wanted = (counts.long() @ weight.mT).int()
    for form, order in FORMS:
        any_order(order)
        held = pack(weight, bits)
        if form != "packed":
            held = ops.arrange(held, in_features, "tiles" if form == "tiles" else "columns")
        if form == "strided":  # columns of one matrix inside another, at an odd address
            wide = torch.full((in_features, held.shape[1] + 7), 0xFF, dtype=torch.uint8)
            wide[:, 3 : 3 + held.shape[1]] = held
            held = wide[:, 3 : 3 + held.shape[1]]
        for execution in ("auto", "dense") if form == "tiles" else ("auto", "dense", "events"):
            acc = ops.accumulate(counts, held, None, out_features, product(bits, largest, execution))
            assert torch.equal(acc, wanted), (form, order, execution)


def test_unfold(ops: Any) -> None:
    """Every temporal code ends at the same accumulators."""
    for (tokens, bits, largest), form in every(((1, 4, 8), (3, 8, 3), (66, 4, 4), (2, 4, 200)), ("tiles", "columns")):
        weight, counts = random_weight(37, 83, bits), random_counts(tokens, 83, largest)
        held = ops.arrange(pack(weight, bits), 83, form)
        for code in CODES.values():
            settings = product(bits, largest, "unfold", code.membrane)
            acc = ops.accumulate(counts, held, code.digits(largest), 37, settings)
            assert torch.equal(acc, (counts.long() @ weight.mT).int()), (code.name, tokens, form)


def test_sums_of_stored_weights_may_wrap(ops: Any) -> None:
    """Offset-binary sums pass 2^31 before the offset is taken off; the accumulators do not."""
    inputs = 33200
    counts, weight = torch.full((9, inputs), 255, dtype=torch.int16), torch.full((17, inputs), 127)
    weight[1] = -128
    wanted = (counts[:1].long() @ weight.mT).int()
    for form, tokens in every(("tiles", "columns"), (1, 9)):
        held = ops.arrange(pack(weight, 8), inputs, form)
        acc = ops.accumulate(counts[:tokens], held, None, 17, product(8, 255))
        assert torch.equal(acc, wanted.expand(tokens, -1)), (form, tokens)


def test_misaligned_tiles_are_copied(ops: Any) -> None:
    weight, counts = random_weight(40, 64, 4), random_counts(2, 64, 8)
    tiles = ops.arrange(pack(weight, 4), 64, "tiles")
    memory = torch.empty(tiles.numel() + 4, dtype=torch.uint8)
    memory[4:] = tiles.flatten()
    acc = ops.accumulate(counts, memory[4:].view(tiles.shape), None, 40, product(4, 8, "dense"))
    assert torch.equal(acc, (counts.long() @ weight.mT).int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "zero-point-and-bias"])
def test_linears(ops: Any, dtype: torch.dtype, extras: bool, any_order: Callable[[int], None]) -> None:
    in_features, sizes = 104, (96, 33, 130)
    for tokens, form in every((1, 5, 20, 70), ("tiles", "columns")):
        any_order(tokens)
        counts = random_counts(tokens, in_features, 15, 0 if extras else None).view(1, tokens, in_features)
        weights = [random_weight(size, in_features, 4) for size in sizes]
        scale, scales = torch.rand(1, tokens, 1) + 0.01, [torch.rand(size) * 0.1 for size in sizes]
        zero = torch.randint(0, 15, (1, tokens, 1), dtype=torch.int32) if extras else None
        sums = [w.sum(1).int() if extras else None for w in weights]
        biases = [torch.randn(size).to(dtype) if extras else None for size in sizes]
        held = [ops.arrange(pack(w, 4), in_features, form) for w in weights]
        operands = [t for member in zip(held, scales, sums, biases, strict=True) for t in member]
        for execution in ("auto", "dense", *(["events"] if form == "columns" else [])):
            outputs = ops.linears(counts, scale, zero, operands, product(4, 15, execution), dtype)
            for y, weight, weight_scale, total, bias in zip(outputs, weights, scales, sums, biases, strict=True):
                acc = (counts.long() @ weight.mT).int()
                if zero is not None:
                    acc -= zero * total
                expected = acc.float() * scale * weight_scale
                expected = expected if bias is None else expected + bias.float()
                assert torch.equal(y, expected.to(dtype)), (tokens, form, execution)


def test_more_members_than_a_launch_takes(ops: Any) -> None:
    counts, scale = random_counts(2, 16, 8), torch.ones(2, 1)
    weights = [random_weight(16 + i, 16, 4) for i in range(11)]
    for form in ("tiles", "columns"):
        operands = [t for w in weights for t in (ops.arrange(pack(w, 4), 16, form), torch.ones(w.shape[0]), None, None)]
        outputs = ops.linears(counts, scale, None, operands, product(4, 8), torch.float32)
        for weight, y in zip(weights, outputs, strict=True):
            assert torch.equal(y, (counts.long() @ weight.mT).float())


def test_no_tokens_and_what_does_not_fit(ops: Any) -> None:
    held = ops.arrange(pack(random_weight(16, 8, 4), 4), 8, "tiles")
    counts = torch.zeros(1, 8, dtype=torch.int8)
    assert ops.accumulate(counts[:0], held, None, 16, product(4, 8)).shape == (0, 16)
    refused: list[tuple[str, tuple[Any, ...]]] = [
        ("columns", (held, None, 16, product(4, 8, "events"))),
        ("bytes where", (held, None, 17, product(4, 8))),
        ("counts up to 256", (held, None, 16, product(4, 256))),
        ("a code's digits", (held, None, 16, product(4, 8, "unfold"))),
        ("a code's digits", (held, CODES["unary"].digits(7), 16, product(4, 8, "unfold"))),
    ]
    for sentence, arguments in refused:
        with pytest.raises(RuntimeError, match=sentence):
            ops.accumulate(counts, *arguments)


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


def rotation_of(size: int, orders: tuple[int, ...], power: int) -> list[Tensor]:
    return [signs_of(size // power, power), *(signs_of(m, m) for m in orders)]


@pytest.mark.parametrize(("size", "orders", "power"), ROTATIONS)
def test_rotate(
    ops: Any,
    any_order: Callable[[int], None],
    size: int,
    orders: tuple[int, ...],
    power: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, rotation = torch.randn(5, size), rotation_of(size, orders, power)
    for memory, order in every(("shared", "global"), range(3)):
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", "2304" if memory == "global" else str(99 << 10))
        any_order(order)
        assert torch.equal(ops.rotate(x, rotation), encoding.rotate(x, rotation)), (memory, order)


ENCODES = [  # settings, τ
    (EncodeSettings(-8, 7, True, 0.9, "none", 1e-5), None),
    (EncodeSettings(-8, 8, True, 0.9, "two-sided", 1e-5), 0.2),
    (EncodeSettings(0, 15, False, 0.9, "none", 1e-5), None),
    (EncodeSettings(0, 255, False, 0.9, "relu", 1e-5), 0.1),
    (EncodeSettings(0, 15, False, 0.9, "shifted", 1e-5), 0.3),
    (EncodeSettings(-400, 400, True, 0.9, "none", 1e-5), None),  # more bins than a block holds
]


@pytest.mark.parametrize(("settings", "clip"), ENCODES, ids=[f"{s.count_max}-{s.clip}" for s, _ in ENCODES])
@pytest.mark.parametrize("memory", ["shared", "global"])
def test_encode(
    ops: Any,
    settings: EncodeSettings,
    clip: float | None,
    memory: str,
    any_order: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if memory == "global":
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", "2304")
    for dtype, size in every((torch.float32, torch.bfloat16, torch.float16), (75, 576, 2050)):
        any_order(size)
        x = torch.randn(6, size).to(dtype)
        x[1] = 0
        x[2, 3] = torch.nan
        x[3, 5] = torch.inf
        x[4] *= 1e-3
        rotation = rotation_of(size, (36,), 16) if size == 576 else []
        threshold = None if clip is None else torch.tensor([clip])
        arguments = (rotation, torch.randn(size), threshold, settings.table(), True)
        for ours, wanted in zip(ops.encode(x, *arguments), encoding.encode(x, *arguments), strict=True):
            assert ours.dtype == wanted.dtype and torch.equal(ours.nan_to_num(-1), wanted.nan_to_num(-1)), size


def test_the_longest_inputs(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """53,248 = 52 · 1,024 inputs: the shared memory of a Hopper GPU just holds them."""
    for limit in (99 << 10, 232448):
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", str(limit))
        x, rotation = torch.randn(1, 53248), rotation_of(53248, (52,), 1024)
        assert torch.equal(ops.rotate(x, rotation), encoding.rotate(x, rotation))


# ---- attention -------------------------------------------------------------------------------------------------------

WIDTHS = list(every(range(2, 9), (True, False)))  # bits, symmetric
RATIOS = (1.0, 0.95, 0.9, 0.7)


@pytest.mark.parametrize(
    ("head_dim", "group"), [(7, 7), (15, 5), (20, 20), (36, 12), (64, 8), (80, 80), (128, 128), (256, 64), (512, 512)]
)
def test_encode_rows(ops: Any, head_dim: int, group: int, any_order: Callable[[int], None]) -> None:
    rotation = Rotation(head_dim, 2).on(torch.device("cpu"))
    for bits, symmetric in WIDTHS:
        any_order(bits)
        x = torch.randn(2, 3, 3, head_dim) * torch.logspace(-3, 3, 9).view(3, 3, 1)
        x[0, 0, 0], x[0, 0, 1, 1], x[0, 1, 1, 0] = 0, torch.nan, torch.inf
        x[1, 2, 2] *= 1e30  # errors are infinite, and so none is less than the first
        settings = RowSettings(bits, group, symmetric, RATIOS)
        rows, histogram = ops.encode_rows(x, rotation, settings.table(), True)
        expected, expected_histogram = attention.encode_rows(x, rotation, settings.table(), True)
        number = torch.ones(2, 3, 3, dtype=torch.bool)
        number[0, 0, 1] = number[0, 1, 1] = False  # of others only that they are none is promised
        assert torch.equal(rows[number], expected[number]) and torch.equal(histogram, expected_histogram), settings
        found, wanted = (unpack(r[~number], head_dim, settings)[1] for r in (rows, expected))
        assert torch.equal(found.isfinite(), wanted.isfinite()), settings


def test_encode_rows_in_any_order(ops: Any, any_order: Callable[[int], None]) -> None:
    shapes, dtypes = ((20, 4), (128, 128)), (torch.float32, torch.bfloat16, torch.float16)
    for (head_dim, group), dtype, order in every(shapes, dtypes, range(3)):
        any_order(order)
        x = torch.randn(3, 7, head_dim, 2).to(dtype).mT  # not contiguous
        for ratios in ((1.0,), RATIOS):
            table = RowSettings(4, group, True, ratios).table()
            arguments = (x, Rotation(head_dim, 2).on(x.device), table, False)
            for ours, wanted in zip(ops.encode_rows(*arguments), attention.encode_rows(*arguments), strict=True):
                assert torch.equal(ours, wanted), (head_dim, dtype, order)


def unpack(rows: Tensor, head_dim: int, settings: RowSettings) -> list[Tensor]:
    """Counts, scales and zero points, those of signed counts being 0."""
    counts, scale, zero = attention.unpack_rows(rows, head_dim, settings)
    return [counts, scale, torch.zeros_like(scale) if zero is None else zero]


def random_rows(heads: int, length: int, head_dim: int, settings: RowSettings) -> tuple[Tensor, Tensor]:
    """Rows of keys and of values of a batch of two."""
    rotation, table = Rotation(head_dim, 2).on(torch.device("cpu")), settings._replace(clip_ratios=(1.0, 0.9)).table()
    keys, values = (
        attention.encode_rows(torch.randn(2, heads, length, head_dim), rotation, table, False)[0] for _ in range(2)
    )
    return keys, values


def exact_attention(query: Tensor, rows: Any, mask: Tensor | None, scaling: float, code: RowSettings) -> Tensor:
    keys, values = (
        ((counts.double() - zero) * scale.double()).flatten(-2).repeat_interleave(query.shape[1] // r.shape[1], 1)
        for r in rows
        for counts, scale, zero in [unpack(r, query.shape[-1], code)]
    )
    scores = query.double() @ keys.mT * scaling
    return (scores if mask is None else scores + mask.double()).softmax(-1) @ values


def assert_attends(
    ops: Any, query: Tensor, rows: Any, mask: Tensor | None, code: RowSettings, *executions: str
) -> None:
    expected = exact_attention(query, rows, mask, 0.2, code)
    bound = 2e-5 * expected.nan_to_num(0).abs().max().item()
    for execution in executions:
        y = ops.attend(query, *rows, mask, 0.2, code.table(), execution)
        assert y.dtype == torch.float32 and y.shape == query.shape
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=bound, equal_nan=True)


@pytest.mark.parametrize(("head_dim", "group"), [(7, 7), (15, 5), (20, 20), (64, 16), (128, 128)])
def test_attend_to_any_code(ops: Any, head_dim: int, group: int, any_order: Callable[[int], None]) -> None:
    for bits, symmetric in WIDTHS:
        any_order(bits)
        code = RowSettings(bits, group, symmetric)
        rows = random_rows(2, 37, head_dim, code)
        assert_attends(ops, torch.randn(2, 4, 3, head_dim), rows, None, code, "dense", "unfold")


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
def test_attend(ops: Any, kind: str, any_order: Callable[[int], None]) -> None:
    any_order(len(kind))  # all three occur
    code = RowSettings(4, 20)
    for tokens, repeats, length in ((1, 1, 300), (1, 4, 300), (3, 3, 140), (40, 2, 150), (3, 1, 1)):
        query, rows = torch.randn(2, 2 * repeats, tokens, 20), random_rows(2, length, 20, code)
        mask = mask_of(kind, 2 * repeats, tokens, length)
        assert_attends(ops, query, rows, mask, code, *(("auto", "unfold") if tokens == 3 else ("auto",)))


def test_attend_in_any_dtype(ops: Any) -> None:
    code = RowSettings(8, 8, False)
    for dtype, mask_dtype in every(
        (torch.float32, torch.bfloat16, torch.float16), (torch.float64, torch.bfloat16, torch.float16)
    ):
        query = torch.randn(2, 3, 4, 24).to(dtype).transpose(1, 2)  # not contiguous
        mask = torch.randn(4, 3, 50).mT.to(mask_dtype).mT
        assert_attends(ops, query, random_rows(2, 50, 24, code), mask, code, "dense")


@pytest.mark.parametrize("symmetric", [True, False])  # rows of whole words, and at odd addresses
def test_attend_to_a_part_of_a_cache(ops: Any, symmetric: bool) -> None:
    code = RowSettings(4, 32, symmetric)
    rows = random_rows(3, 60, 32, code)
    cached = []
    for part in rows:
        cache = torch.full((2, 80, 4, part.shape[-1]), 0xFF, dtype=torch.uint8)
        cache[:, 7:67, 1:] = part.transpose(1, 2)
        cached.append(cache[:, 7:67, 1:].transpose(1, 2))
    query = torch.randn(2, 3, 2, 32)
    part, whole = (ops.attend(query, *held, None, 0.2, code.table(), "dense") for held in (cached, rows))
    assert torch.equal(part, whole)
    assert_attends(ops, query, cached, None, code, "dense")


def test_attend_to_a_long_past(ops: Any) -> None:
    """More positions than 64 splits of two tiles."""
    code = RowSettings(4, 8)
    rows = [part[:1].repeat(1, 1, 30, 1) for part in random_rows(1, 550, 8, code)]
    assert_attends(ops, torch.randn(1, 1, 1, 8), rows, None, code, "dense")


def test_attend_to_rows_of_many_scales(ops: Any) -> None:
    """A tile of 128 of these would not fit into shared memory."""
    code = RowSettings(8, 2, False)
    assert_attends(ops, torch.randn(2, 1, 2, 512), random_rows(1, 21, 512, code), None, code, "dense")


def test_no_number_spreads_as_in_the_reference(ops: Any) -> None:
    code = RowSettings(4, 16)
    rows = random_rows(2, 9, 16, code)
    rows[0][0, 1, 3, -4:] = rows[1][1, 0, 5, -4:] = 255  # NaN as a key's and as a value's scale
    query = torch.randn(2, 4, 3, 16)
    y, expected = (f(query, *rows, None, 0.2, code.table(), "dense") for f in (ops.attend, attention.attend))
    assert torch.equal(y.isnan(), expected.isnan()) and 0 < y.isnan().sum() < y.numel()


def test_attend_to_nothing_and_to_other_rows(ops: Any) -> None:
    code = RowSettings(4, 16)
    keys, values = random_rows(2, 5, 16, code)
    query = torch.randn(2, 4, 3, 16)
    assert not ops.attend(query, keys[:, :, :0], values[:, :, :0], None, 0.2, code.table(), "dense").any()
    assert ops.attend(query[:, :, :0], keys, values, None, 0.2, code.table(), "dense").shape == (2, 4, 0, 16)
    for sentence, settings, mask in (
        ("expected rows", RowSettings(5, 16), None),
        ("do not divide", RowSettings(4, 12), None),
        ("a mask of 4", code, torch.zeros(4)),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            ops.attend(query, keys, values, mask, 0.2, settings.table(), "dense")
