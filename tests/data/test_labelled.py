"""Texts with labels: GLUE's public rows, split once and for all, and files of one's own."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

from spikeconv.data import labelled as module
from spikeconv.data.labelled import LABELLED_TASKS, SPLITS, labelled
from spikeconv.data.offline import glue_rows

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_splits_are_disjoint_whole_and_alike() -> None:
    for task, rows in (("sst2", 872), ("mrpc", 408), ("rte", 277)):
        parts = {split: labelled(task, split) for split in SPLITS}
        assert sum(map(len, parts.values())) == rows
        numbers = [number for split in SPLITS for number in module._splits()[task][split]]
        assert sorted(numbers) == list(range(rows))
        whole = Counter(glue_rows(task)["label"])
        for split, share in zip(SPLITS, (0.5, 0.1, 0.4), strict=True):
            for label, count in Counter(example.label for example in parts[split]).items():
                assert abs(count - share * whole[label]) <= 1, (task, split)
        assert all(len(example.texts) == len(LABELLED_TASKS[task]) for part in parts.values() for example in part)


@pytest.mark.slow
def test_the_script_draws_these_splits(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "split-glue"))
    script["main"].__globals__["TARGET"] = tmp_path / "splits.json"
    script["main"]()
    assert json.loads((tmp_path / "splits.json").read_text()) == module._splits()


def test_a_file_is_every_split(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "a", "pair": "b", "label": 3}\n\n{"text": "c", "pair": "d", "label": 0, "more": 1}\n')
    for split in SPLITS:
        assert [(each.texts, each.label) for each in labelled(str(path), split)] == [(("a", "b"), 3), (("c", "d"), 0)]
