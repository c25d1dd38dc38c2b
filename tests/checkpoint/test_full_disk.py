"""What libraries raise on a full disk is said as the system says it."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from spikeconv import disk
from spikeconv.disk import plain_errors
from spikeconv.errors import SpikeconvError

FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (SafetensorError(FULL), errno.ENOSPC),
        (Exception("No space left on device (os error 28)"), errno.ENOSPC),  # as tokenizers raises
        (SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"), errno.EIO),
    ],
)
def test_errors_of_libraries(tmp_path: Path, raised: Exception, number: int) -> None:
    with pytest.raises(OSError) as caught, plain_errors(tmp_path / "not/there"):
        raise raised
    assert caught.value.errno == number and str(tmp_path) in str(caught.value)


def test_an_error_without_a_word_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer says where it stopped, not why: the disk tells."""
    with pytest.raises(RuntimeError), plain_errors(tmp_path):
        raise RuntimeError("unexpected pos 64 vs 0")
    monkeypatch.setattr(disk, "FULL", 1 << 62)
    with pytest.raises(OSError) as caught, plain_errors(tmp_path):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("raised", [SpikeconvError("bad"), PermissionError(errno.EACCES, "no"), KeyboardInterrupt()])
def test_what_passes(tmp_path: Path, raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, plain_errors(tmp_path):
        raise raised
    assert caught.value is raised
