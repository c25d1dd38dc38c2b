"""Emulated CUDA products (see conftest.py): every layout and execution gives the integers of an int64 product."""

from collections.abc import Callable
from itertools import product as every
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.codes import CODES, Ramp
from spikeconv.ops import ProductSettings


def product(bits: int, largest: int, execution: str = "auto", membrane: str = "add") -> list[float]:
    return ProductSettings(bits, largest, execution, membrane).table()


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
    (5, 40, 150, 4, 300),
    (33, 70, 203, 6, 16383),
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
        for code in (*CODES.values(), Ramp(20)):
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
        ("counts up to 16384", (held, None, 16, product(4, 16384))),
        ("a code's digits", (held, None, 16, product(4, 8, "unfold"))),
        ("a code's digits", (held, CODES["unary"].digits(7), 16, product(4, 8, "unfold"))),
    ]
    for sentence, arguments in refused:
        with pytest.raises(RuntimeError, match=sentence):
            ops.accumulate(counts, *arguments)
