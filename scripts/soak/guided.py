"""Readers of untrusted files under a fuzzer that is guided by coverage (atheris, which is installed beside).

    pip install --no-deps --target beside atheris
    for reader in safetensors config index gguf pth record shard journal scheme; do
      PYTHONPATH=tests:beside python scripts/soak/guided.py $reader --runs 10000; done

The fuzzer looks at which lines of spikeconv (and of gguf) an input reaches, and goes on from those that reach new
ones; its first inputs are whole files of a tiny model. As in `fuzz.py`, only `SpikeconvError` of one line may come out
of a reader, and it may open no file but its own, start no process and reach for no network. (That one mutates with
knowledge of the formats; this one has none, and finds what nobody thought of.)
"""

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spikeconv", "gguf"]):
    import gguf  # noqa: F401 (imported where it is used, which is too late)

    import spikeconv.sources.gguf
    import spikeconv.sources.pth  # noqa: F401
    from spikeconv.checkpoint.folder import read_record
    from spikeconv.checkpoint.journal import JOURNAL, Journal
    from spikeconv.cli.settings import build_config
    from spikeconv.config import SpikeConfig
    from spikeconv.conversion.plan import make_plan
    from spikeconv.errors import SpikeconvError
    from spikeconv.sources.outline import open_or_outline
    from spikeconv.sources.resolve import open_source
    from spikeconv.verification.check import check_files

from fuzz import ALWAYS, Watch
from kinds import Kinds, stop_halfway

MOST = {"safetensors": 16384, "gguf": 65536, "pth": 65536}
"""Bytes of the longest input; others 8192."""


class Readers:
    """Reads what lies where a kind of file does.

    Attributes:
        seeds: whole files, by reader.
        places: where each reader looks, by its name.
    """

    def __init__(self, base: Path) -> None:
        stop_halfway(Kinds(base))
        source, sharded, converted = (base / name for name in ("source", "sharded", "converted"))
        index, config, record = "model.safetensors.index.json", "config.json", "spikeconv.json"
        (base / "scheme.yaml").write_text("bits: 4-1.58\ninputs: {clip_ratio: 0.9}\noverrides: []\n")
        self.places = {
            "safetensors": source / "model.safetensors",
            "config": source / config,
            "index": sharded / index,
            "gguf": base / "model.gguf",
            "pth": base / "rwkv4.pth",
            "record": converted / record,
            "shard": converted / "model.safetensors",
            "journal": base / "stopped" / JOURNAL,
            "scheme": base / "scheme.yaml",
        }
        self.seeds = {name: [place.read_bytes()] for name, place in self.places.items()}
        self.seeds["pth"].append((base / "rwkv6.pth").read_bytes())

    def read(self, name: str) -> None:
        place = self.places[name]
        if name in ("safetensors", "index", "gguf", "pth"):
            source = open_source(place if name in ("gguf", "pth") else place.parent)
            for tensor in source.names():
                source.load(tensor)
        elif name == "config":
            make_plan(open_or_outline(str(place.parent)), SpikeConfig())
        elif name == "scheme":
            build_config(str(place), {}, [], [], [])
        elif name == "journal":
            Journal.read(place.parent)
        else:
            read_record(place.parent)
            check_files(place.parent)


def target(readers: Readers, name: str, watch: Watch) -> Callable[[bytes], None]:
    """What the fuzzer calls."""

    def run(data: bytes) -> None:
        readers.places[name].write_bytes(data)
        watch.found, watch.on = [], True
        try:
            readers.read(name)
        except SpikeconvError as error:
            assert "\n" not in str(error).strip(), f"a message of several lines: {error!r}"
        finally:
            watch.on = False
        assert not watch.found, watch.found

    return run


def fuzz(name: str, runs: int, seconds: int) -> None:
    """In a process of its own: the fuzzer ends it."""
    warnings.simplefilter("ignore")
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="guided-", dir=shm if shm.is_dir() else None) as folder:
        base = Path(folder)
        readers, watch, corpus = Readers(base), Watch(), base / "corpus"
        watch.allowed = (os.path.realpath(base), *ALWAYS)
        corpus.mkdir()
        for index, seed in enumerate(readers.seeds[name]):
            (corpus / str(index)).write_bytes(seed)
            target(readers, name, watch)(seed)  # what is imported at first use
        options = [f"-runs={runs}", f"-max_total_time={seconds}", f"-max_len={MOST.get(name, 8192)}", "-timeout=20"]
        options += ["-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={Path.cwd()}/guided-{name}-"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], target(readers, name, watch))
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", help="safetensors, config, index, gguf, pth, record, shard, journal, scheme")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs")
    parser.add_argument("--seconds", type=int, default=600, help="at most")
    arguments = parser.parse_args()
    fuzz(arguments.reader, arguments.runs, arguments.seconds)


if __name__ == "__main__":
    main()
