"""Datasets by their splits: one to measure on, another to train on."""

import json
from pathlib import Path

import pytest

from spikeconv.data.texts import hub_text, training_text
from spikeconv.errors import SpikeconvError


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as the hub's datasets are, with two splits."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"{split} {word}"} for word in ("one", "two")]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_each_purpose_has_its_split(dataset: str) -> None:
    assert hub_text(dataset) == "test one\n\ntest two"
    assert training_text(dataset=dataset) == ("train one\n\ntrain two", dataset)


def test_a_text_must_be_chosen(tmp_path: Path, dataset: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text("words")
    assert training_text(path) == ("words", str(path))
    with pytest.raises(SpikeconvError, match="--text FILE or --dataset"):
        training_text()
    with pytest.raises(SpikeconvError, match="not both"):
        training_text(path, dataset)
