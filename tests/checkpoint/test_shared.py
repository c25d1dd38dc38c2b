"""Several processes write one checkpoint, any of them may die, and the bytes are those of one."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import KILLED, contents, end_of, operations, start, start_killed

from spikeconv.checkpoint import leases, shared
from spikeconv.checkpoint.leases import Members
from spikeconv.checkpoint.scratch import remove_tree
from spikeconv.checkpoint.shard import Shard
from spikeconv.conversion import fingerprint
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError

Fixture = Callable[..., Any]
SHARDS: dict[str, Any] = {"shard_bytes": 9000}
COUNT = 3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)  # a child that was forked has no threads
    monkeypatch.setattr(shared, "POLL", 0.01)


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run_convert(tiny_checkpoint("qwen2"), output, writing=Writing(**SHARDS))
    return contents(output)


@pytest.fixture
def convert(tiny_checkpoint: Fixture, run_convert: Fixture) -> Callable[..., Callable[[], Any]]:
    def shard(output: Path, index: int, count: int = COUNT, **settings: Any) -> Callable[[], Any]:
        writing = Writing(**SHARDS, shard=Shard(index, count) if count else None)
        return lambda: run_convert(tiny_checkpoint("qwen2"), output, writing=writing, **settings)

    return shard


def test_three_processes_and_kills(whole: dict[str, bytes], convert: Fixture, tmp_path: Path) -> None:
    """One is killed at every thirteenth of its operations, which come in another order each time; the others finish."""
    alone = tmp_path / "alone" / "out"
    total = operations(convert(alone, 1, 1))
    assert contents(alone) == whole and [path.name for path in alone.parent.iterdir()] == ["out"]
    killed = 0
    for fatal in range(1, total, 13):
        output = tmp_path / str(fatal) / "out"
        if fatal % 2:
            output.mkdir(parents=True)  # then it is filled inside
        victim = start_killed(convert(output, 1), fatal, fatal % 4 < 2)
        others = [start(convert(output, index)) for index in (2, 3)]
        ends = [end_of(child) for child in (victim, *others)]
        assert ends[0] in (KILLED, 0) and ends[1:] == [0, 0], (fatal, ends)
        killed += ends[0] == KILLED
        with pytest.raises(SpikeconvError, match="is not empty"):  # clears what a kill at the last instant left
            convert(output, 1)()
        assert contents(output) == whole, fatal
        assert [path.name for path in output.parent.iterdir()] == ["out"], fatal
        remove_tree(output.parent)
    assert killed > total // 40


def test_all_die(whole: dict[str, bytes], convert: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes next goes on: one shard, of another number and count, or one process alone. Others are refused."""
    for fatal in (40, 75, 110):
        for index, count in ((2, 2), (0, 0)):
            output = tmp_path / f"{fatal}-{count}" / "out"
            children = [start_killed(convert(output, each), fatal + each, False) for each in (1, 2, 3)]
            assert [end_of(child) for child in children] == [KILLED] * 3 and not output.exists()
            with pytest.raises(SpikeconvError, match=r"settings.weights.bits 4, now it is 6"):
                convert(output, 1, bits="6-1.58")()
            with (
                monkeypatch.context() as patch,
                pytest.raises(SpikeconvError, match=r"versions.torch 2.*, now it is 9"),
            ):
                patch.setattr(fingerprint, "versions", lambda packages: dict.fromkeys(packages, "9"))
                convert(output, 2)()
            convert(output, index, count)()
            assert contents(output) == whole and [path.name for path in output.parent.iterdir()] == ["out"]


def test_a_host_that_died(
    whole: dict[str, bytes], convert: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock says nothing here; its file tells, since nobody renews it. One that lives keeps its units."""
    monkeypatch.setattr(leases, "PATIENCE", 0.5)
    output = tmp_path / "out"
    assert end_of(start_killed(convert(output, 1), 75, False)) == KILLED
    (place,) = tmp_path.glob("*-shards")
    (dead,) = place.glob("*.member")
    taken = {link.name for link in place.glob("*.1")}
    dead.write_text(dead.read_text().replace(leases._boot(), "another machine"))
    monkeypatch.setattr(leases, "BEAT", 0.05)
    with Members(place, Shard(3, 3)) as living:
        file = place / f"{living.token}.member"
        file.write_text(file.read_text().replace(leases._boot(), "a third machine"))
        units = {str(unit) for unit in range(200)} - {name.removesuffix(".1") for name in taken}
        kept = min(units, key=int)
        assert living.lease(kept) == 1 and living.lease(taken.pop().removesuffix(".1")) == 0
        with pytest.raises(
            SpikeconvError, match=r"Shard 3/3 is at work there already \(process \d+ on .*choose another number"
        ):
            convert(output, 3)()
        with pytest.raises(SpikeconvError, match=r"Shard 3/3 is at work there .*the same N, not 1/2"):
            convert(output, 1, 2)()
        with pytest.raises(SpikeconvError, match=r"is being written by shard 3/3"):
            convert(output, 0, 0)()
        done = threading.Thread(target=convert(output, 1))
        done.start()
        done.join(2)
        assert done.is_alive() and not output.exists()  # it waits for the one unit
    done.join(60)
    assert contents(output) == whole


def test_what_cannot_be_shared_is_refused(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    writing = Writing(shard=Shard(1, 2))
    for number, settings in enumerate(
        ({"weights": "gptq"}, {"overrides": [{"pattern": "down", "settings": {"weights": "gptq"}}]})
    ):
        with pytest.raises(SpikeconvError, match=r"weights=gptq rounds a layer for what the layers before make"):
            run_convert(tiny_checkpoint("llama"), tmp_path / str(number), writing=writing, **settings)
    for text, words in (
        ("0/3", "I must be from 1 to 3"),
        ("4/3", "I must be from 1 to 3"),
        ("1/0", "N must be from 1"),
        ("1/99999", "N must be from 1"),
        ("3", "expected I/N"),
        ("-1/3", "expected I/N"),
        ("1/3/5", "expected I/N"),
        ("١/٣", "expected I/N"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            Shard.parse(text)
    assert not list(tmp_path.iterdir())
