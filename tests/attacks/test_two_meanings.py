"""Attack: JSON that tells two readers different things (one key twice), or whose depth or numbers stop a reader."""

from pathlib import Path

import pytest

from spikeconv.errors import SpikeconvError
from spikeconv.sources.json_file import read_json


def test_contents(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for content, why in (
        (b'{"a": 1, "a": 1}', "'a' stands twice"),
        (b'{"a": 1, "b": [{"a": 2, "a": 3}]}', "'a' stands twice"),
        (b'{"a": ' * 100_000, "cannot be read as JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"[]", "expected a JSON object"),
    ):
        config.write_bytes(content)
        with pytest.raises(SpikeconvError) as caught:
            read_json(config)
        assert why in str(caught.value) and len(str(caught.value)) < 500
    config.write_bytes(b'{"a": 1, "b": {"a": 2}}')
    assert read_json(config) == {"a": 1, "b": {"a": 2}}
