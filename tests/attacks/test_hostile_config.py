"""A converted checkpoint whose config.json asks for what cannot be: layers without end, an infinite epsilon."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_converted

Fixture = Callable[..., Any]


IMPOSSIBLE: list[tuple[tuple[str, ...], Any, str]] = [
    (("num_hidden_layers",), 10**9, "1000000000 layers"),
    (("num_hidden_layers",), 2**63, "layers"),
    (("rms_norm_eps",), math.inf, "rms_norm_eps inf"),
    (("rms_norm_eps",), math.nan, "rms_norm_eps nan"),
    (("quantization_config", "kv", "group"), 5, "kv.group 5 does not divide head_dim 8"),
]


def test_it_is_told_before_anything_is_built(converted: Fixture, tmp_path: Path) -> None:
    shutil.copytree(converted("llama", kv_bits=4), tmp_path / "model")
    file = tmp_path / "model/config.json"
    original = file.read_text()
    for path, value, sentence in IMPOSSIBLE:
        config = json.loads(original)
        place = config
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        file.write_text(json.dumps(config))
        with pytest.raises(SpikeconvError, match=sentence):
            load_converted(tmp_path / "model", device="cpu")


def test_a_sentence_is_one_line_whatever_it_quotes() -> None:
    """A tensor's name may hold a line break, or the control sequences of a terminal."""
    error = SpikeconvError("out.pth holds a\n\x1b[2Jb\u2028c é ✓, which is not supported.")
    assert str(error) == "out.pth holds a\\n\\x1b[2Jb\\u2028c é ✓, which is not supported."
