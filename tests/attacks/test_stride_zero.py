"""Attack: tensors in a pickle that repeat a few bytes: a file of kilobytes that asks for gigabytes."""

from pathlib import Path

import pytest
import torch

from spikeconv.errors import SpikeconvError
from spikeconv.sources.torch_file import read_tensors


def test_repeated_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for tensor in (
        torch.zeros(1).expand(1 << 31),
        torch.zeros(4).as_strided((1 << 20, 4), (0, 1)),
        torch.zeros(1000).as_strided((999, 2), (1, 1)),
    ):
        torch.save({"weight": tensor}, path)
        with pytest.raises(SpikeconvError, match=r"weight has .* bytes, of which the file holds"):
            read_tensors(path)


def test_shared_bytes(tmp_path: Path) -> None:
    """Each tensor is plain, but thousands of them are one."""
    path, whole = tmp_path / "model.pth", torch.zeros(1 << 16)
    torch.save({f"weight.{i}": whole for i in range(2000)}, path)
    with pytest.raises(SpikeconvError, match="but its tensors"):
        read_tensors(path)
    torch.save({"tied": whole, "other": whole}, path)
    assert read_tensors(path).keys() == {"tied", "other"}
