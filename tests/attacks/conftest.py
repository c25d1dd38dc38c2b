import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def source_copy(tiny_checkpoint: Callable[..., Any], tmp_path: Path) -> Callable[[], Path]:
    """A fresh copy of a source, to be spoilt."""
    made: list[Path] = []

    def copy() -> Path:
        made.append(shutil.copytree(tiny_checkpoint("llama"), tmp_path / f"source-{len(made)}"))
        return made[-1]

    return copy
