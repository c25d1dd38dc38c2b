"""Mutated inputs of every kind that spikeconv reads: each must work or be refused in one sentence.

    PYTHONPATH=tests python scripts/soak/fuzz.py --cases 50000                    # all kinds, in turn
    PYTHONPATH=tests python scripts/soak/fuzz.py --kind gguf --first 1234 --cases 1

A case is a failure if anything but `SpikeconvError` comes out of it, if it takes more than `--seconds`, if it opens a
file that is neither its own nor the installation's, if it starts a process, reaches for the network or runs code of its
input, or if it makes the process grow by more than `--grow` MB. Cases follow from their number alone, so that each can
be run again; inputs of failures are kept in `--keep`.
"""

import argparse
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import yaml
from gguf_files import write_gguf
from mutations import mutate_bytes, mutate_json, mutate_json_file, mutate_tensors, mutate_values
from rwkv_files import make_model, write_pth
from tiny_models import save_model
from transformers import AutoModelForCausalLM

from spikeconv import ops
from spikeconv.cache import cache_dir
from spikeconv.checkpoint.folder import read_record, resolve_checkpoint
from spikeconv.cli.settings import build_config
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_converted
from spikeconv.finetune.folder import RunFolder
from spikeconv.nn import EXECUTIONS, set_execution
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.sources.hf import HfSource
from spikeconv.sources.outline import open_or_outline
from spikeconv.sources.resolve import open_source
from spikeconv.verification.check import check_files

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 3}
PATHS = ("bits", "inputs.clip_ratio", "rotation.kind", "weights", "code.slots", "kv.bits", "overrides", "skip", "seed")
VALUES = ("4-1.58", "16", "ramp", "1e999", "[1, 2]", "{a: 1}", "*a", "&a [*a]", "!!python/object:os.system x", "", "ü")
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "ctypes.dlopen")
CANARY = "canary"


class Late(BaseException):
    """The case takes too long."""


class Watch:
    """Notes what a case does that it must not."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.found: list[str] = []
        self.on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.found.append(f"{event} {arguments[:2]!r}"[:200])
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self.allowed):
                self.found.append(f"open {path}"[:200])


class Code:
    """A pickle that would run code."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


class Kinds:
    """One function for each kind of input: makes a case in a folder, and reads it as a command would."""

    def __init__(self, base: Path) -> None:
        self.base = base
        save_model("llama", SIZES, base / "source")
        shutil.copytree(base / "source", base / "sharded")
        model = AutoModelForCausalLM.from_pretrained(base / "source")
        (base / "sharded/model.safetensors").unlink()
        model.save_pretrained(base / "sharded", max_shard_size="10KB")
        config = SpikeConfig.parse({"kv_bits": 4, "overrides": [{"pattern": "down", "settings": {"bits": "6-1"}}]})
        ramp = SpikeConfig.parse({"temporal_code": "ramp", "slots": 8})
        for name, settings in (("converted", config), ("ramp", ramp)):
            source = HfSource(base / "source")
            convert(source, make_plan(source, settings), base / name, command="fuzz")
        write_gguf(base / "source", base / "model.gguf")
        for version in ("4", "6"):
            sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64}
            write_pth(base / f"rwkv{version}.pth", make_model(version, **sizes), version)

    def names(self) -> list[str]:
        return [name for name in vars(Kinds) if not name.startswith("_") and name != "names"]

    def config(self, chance: random.Random, folder: Path) -> None:
        source = self._copied("source", folder)
        mutate_json_file(chance, source / "config.json")
        self._convert(chance, open_or_outline(str(source)), folder, 0.1)

    def outline(self, chance: random.Random, folder: Path) -> None:
        path = folder / "config.json"
        shutil.copyfile(self.base / "source/config.json", path)
        mutate_json_file(chance, path)
        make_plan(open_or_outline(str(path)), SpikeConfig())

    def safetensors(self, chance: random.Random, folder: Path) -> None:
        source = self._copied("source", folder)
        mutate_tensors(chance, source / "model.safetensors")
        self._convert(chance, open_source(source), folder, 0.5)

    def index(self, chance: random.Random, folder: Path) -> None:
        source = self._copied("sharded", folder)
        mutate_json_file(chance, source / "model.safetensors.index.json")
        if chance.random() < 0.2:
            mutate_tensors(chance, chance.choice(sorted(source.glob("*.safetensors"))))
        self._convert(chance, open_source(source), folder, 0.1)

    def gguf(self, chance: random.Random, folder: Path) -> None:
        path = folder / "model.gguf"
        path.write_bytes(mutate_bytes(chance, (self.base / "model.gguf").read_bytes(), 3000))
        self._convert(chance, open_source(path), folder, 0.2)

    def pth(self, chance: random.Random, folder: Path) -> None:
        path = folder / "model.pth"
        original = self.base / chance.choice(("rwkv4.pth", "rwkv6.pth"))
        if chance.random() < 0.5:
            path.write_bytes(mutate_bytes(chance, original.read_bytes(), 4000))
        else:
            with zipfile.ZipFile(original) as old, zipfile.ZipFile(path, "w") as new:
                for entry in old.infolist():
                    data = old.read(entry)
                    if entry.filename.endswith("data.pkl"):
                        data = mutate_bytes(chance, data) if chance.random() < 0.8 else self._code(folder)
                    new.writestr(entry.filename, data)
        self._convert(chance, open_source(path), folder, 0.2)

    def converted(self, chance: random.Random, folder: Path) -> None:
        path = self._copied(chance.choice(("converted", "ramp")), folder)
        what = chance.random()
        if what < 0.5:
            mutate_json_file(chance, path / "config.json")
        elif what < 0.75:
            mutate_tensors(chance, path / "model.safetensors")
        else:
            mutate_json_file(chance, path / "spikeconv.json")
        resolve_checkpoint(path)
        if what < 0.75:
            model: Any = load_converted(path, device="cpu")
            with torch.inference_mode():
                model(torch.tensor([[1, 2, 3]]))
        else:
            read_record(path)
        check_files(path)

    def hostile(self, chance: random.Random, folder: Path) -> None:
        """A checkpoint that loads, with other weights, scales and thresholds than any conversion writes."""
        path = self._copied(chance.choice(("converted", "ramp")), folder)
        mutate_values(chance, path / "model.safetensors")
        model: Any = load_converted(path, device="cpu")
        tokens = torch.tensor([[chance.randrange(64) for _ in range(chance.choice((1, 2, 9)))]])
        for kernels in cpu_kernels():
            use_cpu_kernels(kernels)
            for execution in EXECUTIONS:
                set_execution(model, execution)
                with torch.inference_mode():
                    model(tokens)
        use_cpu_kernels("auto")

    def settings(self, chance: random.Random, folder: Path) -> None:
        written = [f"{chance.choice(PATHS)}{chance.choice(('=', '', '=='))}{chance.choice(VALUES)}" for _ in range(2)]
        patterns = [f"{chance.choice(('down', '*', '[', 'model.layers.0.*'))}:{chance.choice(written)}"]
        scheme = folder / "scheme.yaml"
        tree = mutate_json(chance, SpikeConfig.parse({"bits": "5-1.58", "kv_bits": 4}).model_dump(mode="json"))
        text = yaml.safe_dump(tree, allow_unicode=True) if chance.random() < 0.7 else "\n".join(written)
        data = text.encode("utf-8", "replace")
        scheme.write_bytes(data if chance.random() < 0.8 else mutate_bytes(chance, data))
        given = chance.choice((None, str(scheme)))
        config = build_config(given, {"steps": chance.choice((None, 8, -1, 2**40))}, written, [], patterns)
        make_plan(HfSource(self.base / "source"), config)

    def journal(self, chance: random.Random, folder: Path) -> None:
        """A conversion that goes on with what somebody changed."""
        source = HfSource(self.base / "source")
        plan = make_plan(source, SpikeConfig())
        shutil.copytree(self.base / "stopped", folder / ".out.incomplete")
        journal = folder / ".out.incomplete" / "journal.jsonl"
        if not journal.exists():
            (journal,) = [path for path in journal.parent.iterdir() if "journal" in path.name]
        journal.write_bytes(mutate_bytes(chance, journal.read_bytes()))
        convert(source, plan, folder / "out", command="fuzz")
        assert not check_files(folder / "out").damages

    def log(self, chance: random.Random, folder: Path) -> None:
        made = RunFolder(folder / "tuned")
        made.path.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"step": step, "loss": 1.0, "tokens": 10}) + "\n" for step in range(20))
        made.log_file.write_bytes(mutate_bytes(chance, lines.encode()))
        made.entries()

    def _copied(self, name: str, folder: Path) -> Path:
        return Path(shutil.copytree(self.base / name, folder / name))

    def _code(self, folder: Path) -> bytes:
        return pickle.dumps({"emb.weight": Code(folder / CANARY)})

    def _convert(self, chance: random.Random, source: Any, folder: Path, share: float) -> None:
        plan = make_plan(source, SpikeConfig())
        if chance.random() < share and source.weight_files():
            convert(source, plan, folder / "out", command="fuzz", writing=Writing(force=True))


def stop_halfway(kinds: Kinds) -> None:
    """What a conversion leaves that was stopped."""
    source, read, calls = HfSource(kinds.base / "source"), HfSource.blocks, []

    def failing(self: HfSource, name: str, rows: int) -> Any:
        calls.append(name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return read(self, name, rows)

    HfSource.blocks = failing  # type: ignore[method-assign]
    try:
        convert(source, make_plan(source, SpikeConfig()), kinds.base / "halfway/out", command="fuzz")
    except KeyboardInterrupt:
        pass
    finally:
        HfSource.blocks = read  # type: ignore[method-assign]
    shutil.copytree(kinds.base / "halfway/.out.incomplete", kinds.base / "stopped")


def run_case(kinds: Kinds, kind: str, number: int, watch: Watch, arguments: argparse.Namespace) -> str | None:
    """What went wrong in a case, or None."""
    chance = random.Random(f"{kind} {number}")
    with tempfile.TemporaryDirectory(dir=kinds.base, prefix="case-") as name:
        folder, found = Path(name), None
        mine = (os.path.realpath(folder), os.path.realpath(kinds.base))
        watch.allowed, watch.found = (*mine, *ALWAYS), []
        signal.alarm(arguments.seconds)
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                watch.on = True
                getattr(kinds, kind)(chance, folder)
        except SpikeconvError as error:
            if "\n" in str(error).strip():
                found = f"a message of several lines: {error!r}"[:300]
        except Late:
            found = f"more than {arguments.seconds} s"
        except BaseException as error:
            found = f"{type(error).__name__}: {str(error).splitlines()[:1]} at {_place(error)}"[:300]
        finally:
            watch.on = False
            signal.alarm(0)
        if (folder / CANARY).exists():
            found = "code of the input ran"
        if watch.found:
            found = "; ".join(sorted(set(watch.found)))[:300]
        if found and arguments.keep:
            kept = arguments.keep / f"{kind}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=lambda *_: [CANARY])
        return found


def _place(error: BaseException) -> str:
    """The last line of ours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "spikeconv" in frame.filename and "site-packages" not in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


INSTALLED = (
    sys.prefix,
    sys.base_prefix,
    Path(ops.__file__).parents[2],
    cache_dir(),
    "/proc",
    "/sys",
    "/dev/null",
    "/usr",
)
ALWAYS = tuple(map(os.path.realpath, INSTALLED))


def work(kinds: Kinds, jobs: Any, results: Any, arguments: argparse.Namespace) -> None:
    """Cases from a queue, in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def late(*_: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch()
    for kind in kinds.names():  # what is imported at first use
        run_case(kinds, kind, -1, watch, argparse.Namespace(**{**vars(arguments), "keep": None, "seconds": 60}))
    for kind, number in iter(jobs.get, None):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = run_case(kinds, kind, number, watch, arguments)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if found is None and grown > arguments.grow:
            found = f"grew by {grown:.0f} MB"
        results.put((kind, number, found))
    results.put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", action="append", help="only these")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=20, help="for one case")
    parser.add_argument("--grow", type=float, default=300, help="MB that a case may add to the process")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of failures")
    arguments = parser.parse_args()
    start, failures, counts = time.perf_counter(), Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        kinds = Kinds(Path(base))
        stop_halfway(kinds)
        chosen = arguments.kind or kinds.names()
        context = multiprocessing.get_context("fork")
        jobs, results = context.Queue(100), context.Queue()
        workers = [context.Process(target=work, args=(kinds, jobs, results, arguments)) for _ in range(arguments.jobs)]
        for worker in workers:
            worker.start()
        examples: dict[str, tuple[str, int]] = {}

        def take(result: Any) -> None:
            kind, number, found = result
            counts[kind] += 1
            if found is not None:
                failures[f"{kind}: {found}"] += 1
                examples.setdefault(f"{kind}: {found}", (kind, number))

        left = 0
        for index in range(arguments.cases):
            jobs.put((chosen[index % len(chosen)], arguments.first + index // len(chosen)))
            left += 1
            while not results.empty():
                take(results.get())
                left -= 1
            if not any(worker.is_alive() for worker in workers):
                raise SystemExit("the workers died: a case killed the process")
        for _ in workers:
            jobs.put(None)
        while left:
            if not any(worker.is_alive() for worker in workers) and results.empty():
                raise SystemExit(f"{left} cases never ended: one killed its process")
            result = results.get()
            if result is not None:
                take(result)
                left -= 1
        for worker in workers:
            worker.join()
    print(f"{sum(counts.values())} cases in {time.perf_counter() - start:.0f} s: {dict(counts)}")
    for what, count in failures.most_common():
        kind, number = examples[what]
        print(f"FAILED {count} times, first --kind {kind} --first {number} --cases 1: {what}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
