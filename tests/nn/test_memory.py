"""Weights move into regions of large pages unchanged, one behind the other, and leave the pages of their file."""

import gc
import itertools
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from spikeconv.nn import memory
from spikeconv.nn.memory import LINE, PAGE, LargePages, MappedFiles, large_empty
from spikeconv.ops.native import load


@pytest.fixture(autouse=True)
def loaded() -> None:
    assert load("cpu").is_native  # whom the pages are asked of


@pytest.fixture
def small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "REGION", 1 << 16)


@pytest.mark.usefixtures("small_regions")
def test_copies_are_equal_and_apart() -> None:
    pages = LargePages()
    shapes = [(3, 5, 16, 4), (7,), (1 << 15,), (1 << 15, 1), (0, 4), (1 << 17,), (2, 9, 2, 16, 4)]
    tensors = [torch.randint(256, shape, dtype=torch.uint8) for shape in shapes]
    placed = [pages.place(tensor) for tensor in tensors]
    for copy, tensor in zip(placed, tensors, strict=True):
        assert copy.shape == tensor.shape and copy.is_contiguous() and torch.equal(copy, tensor)
        assert copy.data_ptr() % LINE == 0
    spans = sorted((copy.data_ptr(), copy.data_ptr() + copy.numel()) for copy in placed if copy.numel())
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


@pytest.mark.usefixtures("small_regions")
def test_small_tensors_share_a_region_that_begins_at_a_page() -> None:
    pages = LargePages()
    first, second = (pages.place(torch.zeros(100, dtype=torch.uint8)) for _ in range(2))
    assert first.data_ptr() % PAGE == 0
    assert second.data_ptr() - first.data_ptr() == 128


@pytest.mark.usefixtures("small_regions")
def test_a_tensor_is_all_that_its_storage_holds() -> None:
    """What pickles a tensor, or shares it with a process, takes its whole storage."""
    pages = LargePages()
    placed = [pages.place(torch.full((size,), size % 251, dtype=torch.uint8)) for size in (100, 7, 1 << 17)]
    placed.append(large_empty((3, 5), torch.float32))
    assert [x.untyped_storage().nbytes() for x in placed] == [100, 7, 1 << 17, 60]
    assert len(pickle.dumps(placed[0])) < 1000
    del pages, placed[0]
    gc.collect()
    assert torch.equal(placed[0], torch.full((7,), 7, dtype=torch.uint8))  # the region stays while one needs it


def test_strided_tensors_arrive_contiguous() -> None:
    columns = torch.randint(256, (40, 24), dtype=torch.uint8)
    placed = LargePages().place(columns[:, 3:11])
    assert placed.is_contiguous() and torch.equal(placed, columns[:, 3:11])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_pages_of_a_mapped_file_are_given_back_and_nothing_else_is(tmp_path: Path) -> None:
    numbers = torch.arange(1 << 21, dtype=torch.int32).view(torch.uint8)
    save_file({"first": numbers, "second": numbers.flip(0).contiguous()}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        first, second = file.get_tensor("first"), file.get_tensor("second")
    total = int(first.sum()) + int(second.sum())  # looked at
    before, files, copy = resident(tmp_path), MappedFiles(), first.clone()
    files.let_go(copy)  # in no file
    files.let_go(first[1::2])  # not in one piece
    assert resident(tmp_path) == before >= 16 << 20 and torch.equal(copy, numbers)
    files.let_go(first)
    assert resident(tmp_path) <= before - (8 << 20) + 2 * 4096
    assert torch.equal(second, numbers.flip(0)) and torch.equal(first, numbers)  # read again
    assert int(first.sum()) + int(second.sum()) == total


def resident(folder: Path) -> int:
    """Bytes of the files in a folder that are mapped and in memory."""
    found, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mine = str(folder) in line
        elif mine and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found
