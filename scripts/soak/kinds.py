"""What `fuzz.py` mutates: one function for each kind of input."""

import json
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from gguf_files import write_gguf
from mutations import mutate_bytes, mutate_json, mutate_json_file, mutate_tensors, mutate_values
from rwkv_files import make_model, write_pth
from tiny_models import save_model
from transformers import AutoModelForCausalLM

from spikeconv.checkpoint.folder import read_record, resolve_checkpoint
from spikeconv.cli.settings import build_config
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.evaluate.models import load_converted
from spikeconv.finetune.folder import RunFolder
from spikeconv.nn import EXECUTIONS, set_execution
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.sources.hf import HfSource
from spikeconv.sources.outline import open_or_outline
from spikeconv.sources.resolve import open_source
from spikeconv.verification.check import check_files

__all__ = ["CANARY", "Kinds", "stop_halfway"]

CANARY = "canary"
"""A file that the code in a pickle would make."""
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 3}
PATHS = ("bits", "inputs.clip_ratio", "rotation.kind", "weights", "code.slots", "kv.bits", "overrides", "skip", "seed")
VALUES = ("4-1.58", "16", "ramp", "1e999", "[1, 2]", "{a: 1}", "*a", "&a [*a]", "!!python/object:os.system x", "", "ü")


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
