"""Attack: the log of a fine-tune that was killed while it wrote a line, or that somebody edited."""

from pathlib import Path

import pytest

from spikeconv.errors import SpikeconvError
from spikeconv.finetune.folder import RunFolder


def test_lines(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log_file.parent.mkdir(exist_ok=True)
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 0.5})
    whole = run.log_file.read_text()
    for cut in range(len(whole) - 1, whole.rindex("{"), -1):
        run.log_file.write_text(whole[:cut])
        assert [entry["step"] for entry in run.entries()] in ([1, 2], [1, 2, 3])
    for damage in ('{"step": 2', "[]", '{"loss": 1}', '{"step": null}', "[" * 100_000, '{"step": 1e999}'):
        run.log_file.write_text(f"{damage}\n{whole}")
        with pytest.raises(SpikeconvError, match="damaged in line 1"):
            run.entries()
