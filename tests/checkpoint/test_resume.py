"""A conversion that was stopped, however it was, goes on to the same bytes."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import KILLED, contents, fail_at_read, operations, run_killed

from spikeconv.checkpoint import scratch
from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.journal import JOURNAL
from spikeconv.checkpoint.scratch import Scratch
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]
SHARDS = {"shard_bytes": 9000}


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a conversion writes that nothing stops; its folder is called `out`, as the model card says."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run_convert(tiny_checkpoint("qwen2"), output, writing=Writing(**SHARDS))
    return contents(output)


def test_stopped_at_every_tensor(
    whole: dict[str, bytes],
    tiny_checkpoint: Fixture,
    run_convert: Fixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, output = tiny_checkpoint("qwen2"), tmp_path / "out"
    total = len(HfSource(source).names())
    for number in range(0, total, 3):
        for error in (KeyboardInterrupt, MemoryError):
            with monkeypatch.context() as patch, pytest.raises(error):
                fail_at_read(patch, number, error)
                run_convert(source, output, writing=Writing(**SHARDS))
            assert [path.name for path in tmp_path.iterdir()] == ([".out.incomplete"] if number else [])
            with monkeypatch.context() as patch:
                made = fail_at_read(patch, total, RuntimeError)
                run_convert(source, output, writing=Writing(**SHARDS))
            assert len(made) == total - number  # nothing was made twice
            assert contents(output) == whole and [path.name for path in tmp_path.iterdir()] == ["out"]
            scratch.remove_tree(output)


def test_jobs_give_the_same_bytes(
    whole: dict[str, bytes], tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    for jobs in (2, 5):
        run_convert(tiny_checkpoint("qwen2"), tmp_path / str(jobs) / "out", writing=Writing(**SHARDS, jobs=jobs))
        assert contents(tmp_path / str(jobs) / "out") == whole


def test_calibrated_weights_go_on(tiny_checkpoint: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished layers are read, and their outputs computed again."""
    from spikeconv.calibrate.windows import CalibrationText
    from spikeconv.config import SpikeConfig
    from spikeconv.conversion.pipeline import convert
    from spikeconv.conversion.plan import make_plan
    from spikeconv.weights import calibrated

    source = HfSource(tiny_checkpoint("llama"))
    windows = torch.randint(0, 256, (4, 24), generator=torch.Generator().manual_seed(3))
    plan = make_plan(source, SpikeConfig.parse({"weights": "gptaq"}))
    object.__setattr__(plan, "calibration", CalibrationText(windows, {"text": "random"}))
    convert(source, plan, tmp_path / "whole" / "out")
    wanted = contents(tmp_path / "whole" / "out")
    factorize, calls = calibrated.factorize, []

    def failing(hessian: torch.Tensor, damping: float) -> Any:
        calls.append(len(hessian))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return factorize(hessian, damping)

    monkeypatch.setattr(calibrated, "factorize", failing)
    with pytest.raises(KeyboardInterrupt):
        convert(source, plan, tmp_path / "out")
    convert(source, plan, tmp_path / "out")
    assert len(calls) == 9 + 14 - 8 and contents(tmp_path / "out") == wanted


def test_what_is_written_is_compared_with_the_journal(
    whole: dict[str, bytes],
    tiny_checkpoint: Fixture,
    run_convert: Fixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bytes that a power loss took, a journal that was cut off anywhere, files that are none of ours."""
    source, output, folder = tiny_checkpoint("qwen2"), tmp_path / "out", tmp_path / ".out.incomplete"
    generator = torch.Generator().manual_seed(1)
    for damage in ("bytes", "cut", "short", "stranger", "no journal"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            fail_at_read(patch, 20, KeyboardInterrupt)
            run_convert(source, output, writing=Writing(**SHARDS))
        shards = sorted(folder.glob("*.safetensors"))
        journal = folder / JOURNAL
        if damage == "bytes":
            for shard in shards:
                data = bytearray(shard.read_bytes())
                for at in torch.randint(0, len(data), (20,), generator=generator).tolist():
                    data[at] ^= 0x55
                shard.write_bytes(data)
        elif damage == "cut":
            text = journal.read_bytes()
            journal.write_bytes(text[: len(text) - 77])
        elif damage == "short":
            os.truncate(shards[0], 100)
        elif damage == "stranger":
            (folder / "pytorch_model.bin").write_text("mine")
            (folder / "sub").mkdir()
        else:
            journal.unlink()
        run_convert(source, output, writing=Writing(**SHARDS))
        assert contents(output) == whole, damage
        scratch.remove_tree(output)


def test_another_conversion_is_refused(
    tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output, folder = tiny_checkpoint("qwen2"), tmp_path / "out", tmp_path / ".out.incomplete"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fail_at_read(patch, 9, KeyboardInterrupt)
        run_convert(source, output)
    before = contents(folder)
    for settings, words in (
        ({"bits": "6-1.58"}, "settings.weights.bits 4, now it is 6"),
        ({"seed": 7}, "settings.rotation.seed 2, now it is 7"),
        ({"dtype": torch.bfloat16}, "dtype None, now it is torch.bfloat16"),
        ({"writing": Writing(shard_bytes=9000)}, "shard bytes"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            run_convert(source, output, **settings)
        assert contents(folder) == before
    with pytest.raises(SpikeconvError, match=r"source .*llama.*--restart starts over") as refused:
        run_convert(tiny_checkpoint("llama"), output)
    assert str(folder) in str(refused.value)
    run_convert(source, output, bits="6-1.58", writing=Writing(restart=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_read_that_fails_costs_no_work(
    whole: dict[str, bytes],
    tiny_checkpoint: Fixture,
    run_convert: Fixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preadv, calls = os.preadv, []

    def failing(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 12:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SpikeconvError, match=r"cannot be read: .*goes on"):
        patch.setattr(os, "preadv", failing)
        run_convert(tiny_checkpoint("qwen2"), tmp_path / "out", writing=Writing(**SHARDS))
    with monkeypatch.context() as patch:
        made = fail_at_read(patch, 1000, RuntimeError)
        run_convert(tiny_checkpoint("qwen2"), tmp_path / "out", writing=Writing(**SHARDS))
    assert len(made) == len(HfSource(tiny_checkpoint("qwen2")).names()) - 11
    assert contents(tmp_path / "out") == whole


def test_an_old_checkpoint_that_was_left_in_the_way_is_removed(
    tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    """As by a kill between an exchange and what follows; also by a command that is refused."""
    for name in ("out", ".out.incomplete"):
        run_convert(tiny_checkpoint("qwen2"), tmp_path / name)
    with pytest.raises(SpikeconvError, match="is not empty"):
        run_convert(tiny_checkpoint("qwen2"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_writer(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    source = tiny_checkpoint("qwen2")
    with Scratch(tmp_path / "out", RECORD) as held:
        (held.scratch / "a").write_text("mine")
        with pytest.raises(SpikeconvError, match=rf"out is being written by another process \({os.getpid()} on "):
            run_convert(source, tmp_path / "out")
        assert (held.scratch / "a").read_text() == "mine"
    run_convert(source, tmp_path / "out")
    run_convert(source, tmp_path / "out", force=True)


@pytest.mark.parametrize("state", ["fresh", "force", "inside"])
def test_killed_at_an_operation(
    state: str, whole: dict[str, bytes], tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    """The target holds what it held or what it will hold, at every instant, and the same command goes on.

    All operations of publishing, and some of those before, which are alike.
    """
    torch.set_num_threads(1)  # a child that was forked has no threads
    source, old = tiny_checkpoint("qwen2"), {}

    def run(output: Path) -> None:
        run_convert(source, output, writing=Writing(**SHARDS, force=True))

    if state == "force":
        run_convert(source, tmp_path / "old" / "out", bits="6-1.58")
        old = contents(tmp_path / "old" / "out")

    def prepared(name: str) -> Path:
        output = tmp_path / name / "out"
        if state == "force":
            shutil.copytree(tmp_path / "old", tmp_path / name)
        elif state == "inside":
            output.mkdir(parents=True)
        return output

    counted = prepared("counted")
    total = operations(lambda: run(counted))
    publishing = total - 30
    for fatal in (*range(1, publishing, 7), *range(publishing, total + 1)):
        output = prepared(str(fatal))
        assert run_killed(lambda: run(output), fatal, fatal % 2 == 0) == KILLED  # noqa: B023
        if state != "inside":
            assert (contents(output) if output.exists() else {}) in (old, whole), fatal
        if not output.exists() or contents(output) != whole or state == "force":
            run(output)
        assert contents(output) == whole, fatal
        assert [path.name for path in output.parent.iterdir()] == ["out"], fatal
        scratch.remove_tree(output.parent)
