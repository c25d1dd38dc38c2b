"""Three executions, three layouts, every temporal code, one integer: all equal a brute-force int64 product, exactly."""

from collections.abc import Iterator
from itertools import product as every
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from samples import random_counts, random_weight
from torch import Tensor

from spikeconv import ops
from spikeconv.codes import CODES, UNARY, Code, Ramp
from spikeconv.ops.settings import LARGEST_COUNT

LAYOUTS = ("packed", "tiles", "columns")
RUNS = [
    (execution, layout)
    for execution in ("auto", *ops.EXECUTIONS)
    for layout in LAYOUTS
    if (execution, layout) != ("events", "tiles")  # an event reads columns
]
COUNT_RANGES = [
    *((-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in range(2, 9)),
    *((-(2 ** (b - 1)), 2 ** (b - 1)) for b in (4, 8)),
    *((0, 2**b - 1) for b in range(2, 9)),
    (-255, 255),
]


def product(counts: Tensor, weight: Tensor) -> Tensor:
    # Exact: |acc| < 2^53.
    return (counts.double() @ weight.double().mT).long()


class Case:
    """Counts and a weight, and the accumulators that every way to them must give."""

    def __init__(self, kernels: Any, counts: Tensor, weight: Tensor, bits: int, largest: int) -> None:
        self.kernels, self.counts, self.bits, self.largest = kernels, counts.to(kernels.device), bits, largest
        self.outputs, packed = weight.shape[0], ops.pack(weight, bits).to(kernels.device)
        self.held = {
            layout: packed if layout == "packed" else kernels.arrange(packed, weight.shape[1], layout)
            for layout in LAYOUTS
        }
        self.wanted = product(counts, weight)

    def check(self, *runs: tuple[str, str]) -> None:
        """Each way; unfolded by the unary code."""
        for execution, layout in runs or RUNS:
            acc = self.accumulate(execution, layout)
            assert acc.dtype == torch.int32 and acc.shape == (*self.counts.shape[:-1], self.outputs)
            assert torch.equal(acc.cpu().long(), self.wanted), (execution, layout, self.bits, self.largest)

    def accumulate(self, execution: str, layout: str, code: Code = UNARY) -> Tensor:
        settings = ops.ProductSettings(self.bits, self.largest, execution, code.membrane)
        digits = code.digits(self.largest).to(self.kernels.device) if execution == "unfold" else None
        held = self.held[layout]
        acc: Tensor = self.kernels.accumulate(self.counts, held, digits, self.outputs, settings.table())
        return acc


@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_int64_product(bits: int, kernels: Any) -> None:
    for (low, high), tokens in every(COUNT_RANGES, (7, 19)):
        counts = random_counts((tokens, 37), low, high)
        counts[0], counts[1], counts[2, ::2] = low, high, low  # extremes, alone and mixed
        Case(kernels, counts, random_weight(19, 37, bits), bits, max(-low, high)).check()


def test_counts_of_two_planes(kernels: Any) -> None:
    """Counts up to 2^14 go as 128 · high + low; the extremes of both planes, alone and mixed."""
    runs = [run for run in RUNS if run[0] != "unfold"]
    for largest, bits in every((300, 528, 4096, LARGEST_COUNT), (2, 4, 8)):
        for tokens in (1, 3, 20):
            counts = random_counts((tokens, 205), -largest, largest).short()
            counts[0, :6] = torch.tensor([largest, -largest, 127, 128, -128, -129])
            Case(kernels, counts, random_weight(37, 205, bits), bits, largest).check(*runs)


def test_every_code_ends_at_the_same_accumulators(kernels: Any) -> None:
    for (low, high), code in every(COUNT_RANGES, (*CODES.values(), Ramp(23))):
        case = Case(kernels, random_counts((5, 45), low, high), random_weight(11, 45, 4), 4, max(-low, high))
        for layout in LAYOUTS:
            acc = case.accumulate("unfold", layout, code)
            assert torch.equal(acc.cpu().long(), case.wanted), (low, high, code.name, layout)


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"),
    [
        (1, 1, 1),
        (1, 8, 16),
        (1, 577, 131),
        (2, 64, 128),
        (4, 1000, 17),
        (5, 256, 129),
        (7, 523, 260),
        (97, 96, 33),
        (200, 1100, 65),
        (2048, 72, 40),
    ],
)
def test_shapes(tokens: int, inputs: int, outputs: int, kernels: Any) -> None:
    for (bits, largest), (execution, layout) in every(((4, 8), (6, 32), (8, 128)), RUNS):
        few = tokens
        if execution == "unfold" and (largest > 8 or tokens > 200):
            few = min(tokens, 3)  # T' products a token
        if kernels.name == "reference" and execution == "events":
            few = min(tokens, 100)  # a loop over tokens
        counts = random_counts((few, inputs), -largest, largest - 1)
        Case(kernels, counts, random_weight(outputs, inputs, bits), bits, largest).check((execution, layout))


def test_few_events(kernels: Any) -> None:
    for density in (0.0, 0.02, 0.3):
        for inputs, outputs in ((700, 400), (90, 13_000)):  # of the latter, sums are more than a cache holds
            counts = random_counts((3, inputs), -8, 7) * (torch.rand(3, inputs) < density)
            Case(kernels, counts, random_weight(outputs, inputs, 4), 4, 8).check()


def test_wide_counts_of_one_sign(kernels: Any) -> None:
    """A token whose counts are below -128 but nowhere above 127 still is no token of signed bytes."""
    for low, high in ((-255, 100), (-100, 255), (-255, -129), (129, 255)):
        counts = random_counts((3, 300), low, high).short()
        counts[:, 0], counts[:, 1] = low, high
        Case(kernels, counts, random_weight(200, 300, 4), 4, 255).check()


def test_leading_axes_and_strides(kernels: Any) -> None:
    weight = random_weight(11, 45, 4)
    for lead in ((0,), (1,), (7,), (2, 3), (2, 0), ()):
        Case(kernels, random_counts((*lead, 45), -8, 7), weight, 4, 8).check()
    strided = random_counts((45, 6), -8, 7).mT
    assert not strided.is_contiguous()
    Case(kernels, strided, weight, 4, 8).check()
    Case(kernels, strided[:, ::3], weight[:, ::3], 4, 8).check()
    storage = random_counts((1 + 6 * 45,), -8, 7)
    Case(kernels, storage[1:].view(6, 45), weight, 4, 8).check()
    Case(kernels, torch.zeros(3, 20, dtype=torch.int8), torch.full((4, 20), -8, dtype=torch.int8), 4, 8).check()


def test_unaligned_weight(kernels: Any) -> None:
    case = Case(kernels, random_counts((3, 61), -8, 7), random_weight(35, 61, 4), 4, 8)
    for layout, held in case.held.items():
        shifted = torch.empty(held.numel() + 3, dtype=torch.uint8, device=kernels.device)[3:].view(held.shape)
        case.held[layout] = shifted.copy_(held)
    case.check()


def test_columns_of_several_weights_side_by_side(kernels: Any) -> None:
    """A group's columns are slices of one tensor."""
    for bits, tokens in every((4, 6), (1, 4)):
        counts = random_counts((tokens, 50), -8, 7)
        cases = [Case(kernels, counts, random_weight(n, 50, bits), bits, 8) for n in (64, 10, 130)]
        columns = [case.held["columns"] for case in cases]
        for case, part in zip(cases, torch.cat(columns, 1).split([c.shape[1] for c in columns], 1), strict=True):
            case.held["columns"] = part
            case.check(("auto", "columns"))


def test_any_number_of_threads(threads: Iterator[int], kernels: Any) -> None:
    cases = [
        Case(kernels, random_counts((tokens, inputs), -8, 7), random_weight(outputs, inputs, 4), 4, 8)
        # shared out by tiles, panels, rows and events, and by outputs of long columns
        for tokens, inputs, outputs in ((1, 2000, 999), (3, 2000, 999), (64, 2000, 999), (400, 300, 64), (1, 100, 9001))
    ]
    for _ in threads:
        for case in cases:
            case.check(("dense", "tiles"), ("events", "columns"), ("dense", "columns"))


def test_exact_beyond_float32(kernels: Any) -> None:
    """8-bit extremes pass 2^24, where a single float32 product would round."""
    for low, high, inputs in ((-128, 127, 4097), (0, 255, 4609)):
        counts = random_counts((3, inputs), low, high)
        counts[0], counts[1] = high, low
        case = Case(kernels, counts, random_weight(5, inputs, 8), 8, max(-low, high))
        assert (case.wanted.float().long() != case.wanted).any(), "the case must be beyond float32"
        case.check()


def test_exact_up_to_the_last_bit_of_an_int32(kernels: Any) -> None:
    """The longest rows that are allowed; the sums of offset-binary weights pass 2^31 on the way."""
    for bits, largest in ((8, 255), (8, 128), (2, 255), (4, LARGEST_COUNT)):
        inputs = (2**31 - 1) // (largest << bits - 1)
        if inputs > 140_000:  # 4 million inputs need no more than the others: the bound is the settings' to know
            inputs = 140_000
        counts = torch.full((2, inputs), largest).short()
        counts[1] = -largest
        weight = torch.full((3, inputs), 2 ** (bits - 1) - 1, dtype=torch.int8)
        weight[1] = -(2 ** (bits - 1))
        executions = ("dense", "tiles"), ("dense", "columns"), ("events", "columns")
        Case(kernels, counts, weight, bits, largest).check(*executions)


def test_exact_under_autocast(device: torch.device) -> None:
    registered = SimpleNamespace(device=device, arrange=ops.arrange, accumulate=ops.accumulate)
    case = Case(registered, random_counts((5, 301), -8, 7), random_weight(7, 301, 4), 4, 8)
    with torch.autocast(device.type, torch.bfloat16):
        case.check()


def test_what_does_not_fit_is_refused(kernels: Any) -> None:
    case = Case(kernels, random_counts((2, 40), -8, 7), random_weight(5, 40, 4), 4, 8)
    wide = Case(kernels, random_counts((2, 40), -250, 250), random_weight(5, 40, 4), 4, 255)
    digits = CODES["unary"].digits(8).to(kernels.device)
    long = torch.zeros(1, 70_000, dtype=torch.int16, device=kernels.device)
    packed = ops.pack(torch.zeros(1, 70_000, dtype=torch.int8), 8).to(kernels.device)
    unfold = ops.ProductSettings(4, 8, "unfold")
    bad: list[tuple[str, tuple[Any, ...]]] = [
        ("counts up to 16384", (case.counts, case.held["packed"], None, 5, ops.ProductSettings(4, LARGEST_COUNT + 1))),
        ("weights of 9 bits", (case.counts, case.held["packed"], None, 5, ops.ProductSettings(9, 8))),
        ("70000 inputs with counts up to 255", (long, packed, None, 1, ops.ProductSettings(8, 255))),
        ("code's digits", (case.counts, case.held["packed"], None, 5, unfold)),
        ("code's digits", (case.counts, case.held["packed"], digits[:, 1:], 5, unfold)),
    ]
    if kernels.device.type == "cpu":  # elsewhere it would take a synchronisation
        bad += [
            ("-1, 0 or 1", (case.counts, case.held["packed"], 2 * digits, 5, unfold)),
            ("count beyond 8", (wide.counts, wide.held["packed"], digits, 5, unfold)),
        ]
    if kernels.name != "reference":
        bad += [
            ("bytes where", (case.counts[:, :20], case.held["tiles"], None, 5, ops.ProductSettings(4, 8, "dense"))),
            ("bytes where", (case.counts, case.held["columns"], None, 9, ops.ProductSettings(4, 8, "dense"))),
        ]
    for sentence, (*arguments, settings) in bad:
        with pytest.raises(Exception, match=sentence):
            kernels.accumulate(*arguments, settings.table())
