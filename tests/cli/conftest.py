import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from spikeconv.cache import make_private
from spikeconv.cli.app import main
from spikeconv.ops.native import load


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def spikeconv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """`spikeconv("convert", source, …)` as typed on a command line; the cache folder has kernels alone."""
    kernels = load("cpu").path  # in an empty folder every process would build them again
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    if kernels is not None and "kernels" in kernels.parts:
        make_private(tmp_path / "cache")
        (tmp_path / "cache" / "kernels").symlink_to(kernels.parents[1])
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["spikeconv", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
            sys.exit(0)
        code = stop.value.code
        captured = capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
