"""Every temporal code says every count, in integers, and its neuron ends at the sum of what it was told."""

from itertools import product

import pytest
import torch

from spikeconv.codes import CODES, Code, Cost, Ramp, code_of
from spikeconv.errors import SpikeconvError
from spikeconv.ops.settings import MEMBRANES

LARGEST = (1, 2, 3, 7, 8, 15, 16, 31, 128, 255)
EACH_CODE = pytest.mark.parametrize("code", [*CODES.values(), Ramp(23)], ids=lambda code: code.name)


@EACH_CODE
def test_spikes_of_the_slots_are_worth_the_count(code: Code) -> None:
    for largest in LARGEST:
        counts = torch.arange(-largest, largest + 1).to(torch.int8 if largest < 128 else torch.int16)
        train, weights = code.unfold(counts, largest), torch.tensor(code.weights(largest))
        assert train.dtype == torch.int8 and train.shape == (code.slots(largest), len(counts))
        assert set(train.unique().tolist()) <= {-1, 0, 1}
        assert torch.equal((train * weights[:, None]).sum(0), counts.long())
        assert torch.equal(train.abs().sum(0, dtype=torch.int64), code.spikes(largest)[counts.long().abs()])
        assert code.digits(largest).shape == (code.slots(largest), largest + 1)
        assert code.cost(largest).slots == code.slots(largest)


@EACH_CODE
def test_the_membrane_ends_at_the_sum_of_inputs(code: Code) -> None:
    """Slot by slot as the code says, on any integer current; and a product op knows that step by its name."""
    assert code.membrane in MEMBRANES
    counts, weight = torch.randint(-31, 32, (40,)).to(torch.int8), torch.randint(-8, 8, (5, 40))
    state = tuple(torch.zeros(5, dtype=torch.int64) for _ in range(code.accumulators))
    for spikes in code.unfold(counts, 31):
        state = code.update(state, weight @ spikes.long())
    assert torch.equal(state[0], weight @ counts.long())


def test_unary_and_binary_by_hand() -> None:
    five = torch.tensor([5, -5, 0], dtype=torch.int8)
    assert code_of("unary").unfold(five, 7).T.tolist() == [[1, 1, 1, 1, 1, 0, 0], [-1, -1, -1, -1, -1, 0, 0], [0] * 7]
    assert code_of("binary").unfold(five, 7).T.tolist() == [[1, 0, 1], [-1, 0, -1], [0, 0, 0]]
    assert code_of("unary").cost(8) == Cost(slots=8)
    assert code_of("binary").cost(8) == Cost(slots=4, doublings=4)
    assert code_of("binary").spikes(8).tolist() == [0, 1, 1, 2, 1, 2, 2, 3, 1]


@EACH_CODE
def test_the_lowest_int8_keeps_its_sign(code: Code) -> None:
    train = code.unfold(torch.tensor([-128], dtype=torch.int8), 128)
    weights = torch.tensor(code.weights(128))
    assert int((train[:, 0] * weights).sum()) == -128


def trains(weights: list[int], count: int) -> list[tuple[int, ...]]:
    """Every train of signed spikes that is worth a count."""
    every = product((-1, 0, 1), repeat=len(weights))
    return [train for train in every if sum(w * digit for w, digit in zip(weights, train, strict=True)) == count]


@pytest.mark.parametrize("slots", range(1, 8))
def test_ramp_sends_the_fewest_spikes_that_end_first_and_then_begin_first(slots: int) -> None:
    code, largest = Ramp(slots), slots * (slots + 1) // 2
    assert code.weights(largest) == list(range(slots, 0, -1))
    for count, sent in enumerate(code.digits(largest).T.tolist()):
        times = {
            train: [slot for slot, digit in enumerate(train) if digit] for train in trains(code.weights(largest), count)
        }
        best = min(times, key=lambda train: (len(times[train]), times[train][-1:], times[train]))
        assert tuple(sent) == best, count


def test_signed_digits_are_the_fewest_and_no_neighbours() -> None:
    code = code_of("signed-digit")
    for count, sent in enumerate(code.digits(64).T.tolist()):
        assert sum(map(abs, sent)) == min(sum(map(abs, train)) for train in trains(code.weights(64), count))
    for largest in range(1, 256):
        digits = code.digits(largest)
        assert not (digits[1:] * digits[:-1]).any() and digits[0].any(), "a slot that no count needs"


def test_ramp_and_signed_digits_by_hand() -> None:
    seven = torch.tensor([7, -7, 3], dtype=torch.int8)
    assert code_of("signed-digit").unfold(seven, 8).T.tolist() == [[1, 0, 0, -1], [-1, 0, 0, 1], [0, 1, 0, -1]]
    assert [code_of("signed-digit").slots(largest) for largest in (1, 2, 3, 8, 10, 11, 16, 255)] == [
        *(1, 2, 3, 4, 4, 5, 5, 9),
    ]
    assert code_of("signed-digit").cost(8) == Cost(slots=4, doublings=4)
    assert code_of("ramp", 4).unfold(seven, 8).T.tolist() == [[1, 1, 0, 0], [-1, -1, 0, 0], [0, 1, 0, 0]]
    assert code_of("ramp").spikes(255).tolist() == [0] + [1] * 255
    assert code_of("ramp", 4) == Ramp(4) and code_of("ramp", 4).cost(10) == Cost(slots=4, additions=4)


def test_too_few_slots_are_refused() -> None:
    sentence = "ramp with 4 slots reaches counts up to 10, not 32; take at least 8 slots"
    with pytest.raises(SpikeconvError, match=sentence):
        code_of("ramp", 4).digits(32)
    assert code_of("ramp", 8).spikes(32)[32] == 6
