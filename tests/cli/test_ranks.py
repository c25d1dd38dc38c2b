"""Two processes of a launcher measure what one measures, and one that fails ends the other with its reason."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from killing import end_of, start

from spikeconv.cli.app import main
from spikeconv.evaluate import perplexity
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.integrations.lm_eval import HarnessModel
from spikeconv.ops.native import load
from spikeconv.progress import silent
from spikeconv.ranks import joined

Fixture = Callable[..., Any]
TIMES = ("seconds", "output")


class Said(NamedTuple):
    code: int
    out: str
    err: str


def together(folder: Path, run: Callable[[int], object]) -> list[Said]:
    """What two processes say that a launcher starts, each of which runs something with its rank."""
    torch.set_num_threads(1)  # a child that was forked has no threads
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}

    def child(rank: int) -> None:
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        try:
            run(rank)
        except SystemExit as stop:
            os._exit(stop.code if isinstance(stop.code, int) else 0)
        finally:
            sys.stdout.flush()

    children = [start(lambda: child(rank)) for rank in range(2)]  # noqa: B023 (the child has it)
    codes = [end_of(each) for each in children]
    return [
        Said(code, *((folder / f"{name}{rank}").read_text() for name in ("out", "err")))
        for rank, code in enumerate(codes)
    ]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Callable[[int], object]]:
    """`typed("perplexity", …)`: runs that command line."""
    load("cpu")  # from the real cache folder: in an empty one the kernels would be built again
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))

    def command(*words: object) -> Callable[[int], object]:
        monkeypatch.setattr(sys, "argv", ["spikeconv", *map(str, words)])
        return lambda rank: main()

    return command


def test_two_processes_measure_what_one_does(
    typed: Fixture, spikeconv: Fixture, converted: Fixture, tmp_path: Path
) -> None:
    path, text = converted("llama", bits="4-1.58", kv_bits=4), tmp_path / "text.txt"
    text.write_text("some words, and some more of them. " * 150)
    measure = ("perplexity", path, "--text", text, "--window", 50, "--json")
    alone = spikeconv(*measure).json
    first, second = together(tmp_path / "perplexity", typed(*measure))
    assert (first.code, second) == (0, Said(0, "", "")), (first, second)
    assert {**alone, "seconds": 0} == {**json.loads(first.out), "seconds": 0}

    first, second = together(tmp_path / "mistake", typed(*measure, "--windows", 50))
    assert (first.code, second) == (2, Said(2, "", "")) and "--windows" in first.err, (first, second)

    record = ("record", path, "--text", text, "--tokens", 3500, "--json", "-q", "-o")
    assert spikeconv(*record, tmp_path / "one").code == 0
    first, second = together(tmp_path / "record", typed(*record, tmp_path / "two"))
    assert (first.code, second) == (0, Said(0, "", "")), (first, second)
    assert (tmp_path / "one" / "record.json").read_bytes() == (tmp_path / "two" / "record.json").read_bytes()
    with np.load(tmp_path / "one" / "record.npz") as one, np.load(tmp_path / "two" / "record.npz") as two:
        assert (
            set(one) == set(two)
            and len(json.loads((tmp_path / "one" / "record.json").read_text())["record"]["sequences"]) == 4
        )
        for name in one:
            assert one[name].dtype == two[name].dtype and one[name].tobytes() == two[name].tobytes(), name


def test_two_processes_answer_what_one_does(converted: Fixture, tmp_path: Path) -> None:
    """Of every kind of requests, in their order; also where there are fewer than processes."""
    loaded = load_checkpoint(converted("llama", bits="4-1.58"), device="cpu")
    choices = [("a question of some length", end) for end in (" yes", " no, not at all", " well")]
    pairs = [*choices, ("b", " c"), *[(f"{n} and {n}", f" make {n + n}") for n in range(20)]]
    stop = {"until": ["."], "max_gen_toks": 4, "do_sample": False}
    texts = ["one text", "another one, which is longer", "a", "the last"]

    def asked(kind: str, arguments: Any) -> list[Any]:
        return [SimpleNamespace(args=each, request_type=kind) for each in arguments]

    def answers(ranks: Any) -> list[Any]:
        model = HarnessModel(loaded.model, loaded.tokenizer, 1, silent, ranks)
        return [
            model.loglikelihood(asked("loglikelihood", pairs)),
            model.loglikelihood(asked("loglikelihood", pairs[:1])),
            model.loglikelihood_rolling(asked("loglikelihood_rolling", [(text,) for text in texts])),
            model.generate_until(asked("generate_until", [(text, stop) for text in texts])),
        ]

    def run(rank: int) -> None:
        with joined() as ranks:
            print(json.dumps(answers(ranks)))

    with joined() as ranks:
        alone = json.dumps(answers(ranks))
    both = together(tmp_path / "requests", run)
    assert [said.code for said in both] == [0, 0], both
    assert [said.out.strip().splitlines()[-1] for said in both] == [alone, alone]


def test_one_that_fails_ends_the_other(
    typed: Fixture, converted: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, text = converted("llama", bits="4-1.58"), tmp_path / "text.txt"
    text.write_text("some words, and some more of them. " * 50)
    measure, nll = ("perplexity", path, "--text", text, "--window", 50), perplexity._nll

    def of_the_second(act: Callable[[], object]) -> None:
        def acting(*arguments: Any) -> float:
            if os.environ["RANK"] == "1":
                act()
            return nll(*arguments)

        monkeypatch.setattr(perplexity, "_nll", acting)

    def fail() -> None:
        raise MemoryError("no room")

    of_the_second(fail)
    first, second = together(tmp_path / "failed", typed(*measure))
    assert (first.code, first.out, second) == (2, "", Said(1, "", "")), (first, second)
    assert first.err.splitlines()[-1] == "error: Rank 1 ended: MemoryError: no room"
    of_the_second(lambda: os.kill(os.getpid(), signal.SIGKILL))
    first, second = together(tmp_path / "killed", typed(*measure))
    assert (first.code, first.out, second.code) == (2, "", -signal.SIGKILL)
    assert "Another rank ended without a word; it was killed" in first.err.splitlines()[-1]
    monkeypatch.setattr(perplexity, "_nll", nll)

    def other(rank: int) -> None:
        if rank:
            text.with_name("other.txt").write_text("another text, " * 50)
            sys.argv[sys.argv.index(str(text))] = str(text.with_name("other.txt"))
        main()

    typed(*measure)
    first, second = together(tmp_path / "other", other)
    assert (first.code, first.out, second) == (2, "", Said(2, "", "")), (first, second)
    assert "The text is" in first.err and "for rank 1." in first.err
    first, second = together(tmp_path / "words", typed(*measure, "--dtype", "x"))
    assert first.code == second.code == 2 and "dtype 'x'" in first.err and not second.err
    assert not (path / "eval").exists()
