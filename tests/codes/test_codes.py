"""Every temporal code says every count, in integers, and its neuron ends at the sum of what it was told."""

import pytest
import torch

from spikeconv.codes import CODES, Cost, code_of
from spikeconv.ops.settings import MEMBRANES

LARGEST = (1, 2, 3, 7, 8, 15, 16, 31, 128, 255)
EACH_CODE = pytest.mark.parametrize("name", CODES)


@EACH_CODE
def test_spikes_of_the_slots_are_worth_the_count(name: str) -> None:
    code = code_of(name)
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
def test_the_membrane_ends_at_the_sum_of_inputs(name: str) -> None:
    """Slot by slot as the code says, on any integer current; and a product op knows that step by its name."""
    code = code_of(name)
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
def test_the_lowest_int8_keeps_its_sign(name: str) -> None:
    train = code_of(name).unfold(torch.tensor([-128], dtype=torch.int8), 128)
    weights = torch.tensor(code_of(name).weights(128))
    assert int((train[:, 0] * weights).sum()) == -128
