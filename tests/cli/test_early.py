"""Every mistake that can be seen at once is told at once: before torch, whose import takes seconds."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from spikeconv.cli.app import app

RUNS: dict[str, tuple[list[str], str]] = {
    "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
    "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
    "execution": (["CHECKPOINT", "--exec", "x"], "execution 'x'"),
    "memory_limits": (["CHECKPOINT", "--memory-limits", "cpu"], "0=20GB,cpu=60GB"),
    "offload_folder": (["CHECKPOINT", "--offload-folder", "/nowhere/f"], "is no folder"),
    "cache_dtype": (["CHECKPOINT", "--cache-dtype", "bfloat6"], "Did you mean bfloat16?"),
}
"""Of what several commands let a checkpoint run with."""

MISTAKES: dict[str, dict[str, tuple[list[str], str]]] = {
    "convert": {
        "source": (["lama2-7b"], "Did you mean the preset llama2-7b?"),
        "output": (["MODEL", "-o", "TEXT"], "is a file"),
        "bits": (["--bits", "5.5-3"], "4-1.58"),
        "clip_ratio": (["--clip-ratio", "atuo"], "expected a number or auto"),
        "kv_bits": (["--kv-bits", "99"], "kv.bits"),
        "kv_group": (["--kv-bits", "4", "--kv-group", "head-dim"], "kv.group"),
        "clip_roles": (["llama2-7b", "--clip-roles", "q,x"], "Roles: q, k, v"),
        "clip_quantile": (["--clip-quantile", "1"], "inputs.clip.quantile"),
        "clip_text": (["--clip-quantile", "0.5", "--clip-text", "EMPTY"], "is empty"),
        "clip_from": (["--clip-from", "FOLDER"], "spikeconv-clip.json"),
        "as_trained": (["MODEL", "--as-trained"], "spikeconv-training.json"),
        "calibration": (["--balance", "sqrt", "--calibration", "wikitxt2"], "Did you mean wikitext2?"),
        "budget": (["--budget", "spikse=1"], "spikes=N"),
        "arch": (["FILE.pth", "--arch", "spikegtp"], "Did you mean spikegpt?"),
        "scheme": (["--scheme", "sdllm-4"], "Did you mean sdllm-4-4?"),
        "assignments": (["--set", "clipratio=1"], "clip_ratio"),
        "skip": (["MODEL", "--skip", "dwn"], "Did you mean down?"),
        "override": (["llama2-7b", "--override", "qq:bits=4-4"], "Roles: q, k, v"),
        "dtype": (["--dtype", "bfloat6"], "Did you mean bfloat16?"),
        "log_file": (["--log-file", "/nowhere/log"], "there is no folder /nowhere"),
        "device": (["--device", "cdua"], "Did you mean cuda?"),
        "max_memory": (["--max-memory", "much"], "such as 5GB"),
        "max_shard_size": (["--max-shard-size", "0"], "500MB"),
        "shard": (["MODEL", "-o", "new", "--shard", "4/3"], "I must be from 1 to 3"),
        "shard alone": (["MODEL", "--shard", "1/3"], "needs --output"),
        "shard and force": (["MODEL", "-o", "new", "--shard", "1/3", "--force"], "--force does not go with --shard"),
        "shard of gptq": (["MODEL", "-o", "new", "--shard", "1/3", "--weights", "gptq"], "leave --shard out"),
        "delete_source_shards": (["MODEL", "--delete-source-shards"], "not fetched from the hub"),
    },
    "finetune": {
        "source": (["./nothing", "--text", "TEXT"], "./nothing is no directory"),
        "output": (["--text", "TEXT", "-o", "TEXT"], "is a file"),
        "text": (["--text", "EMPTY"], "is empty"),
        "no text": ([], "Give a text"),
        "dataset": (["--dataset", "wikitext-2"], "Did you mean wikitext2?"),
        "task": (["--task", "sst"], "Did you mean sst2?"),
        "scheme": (["--scheme", "spikelm-elstic", "--text", "TEXT"], "No scheme"),
        "bits": (["--bits", "x", "--text", "TEXT"], "bits"),
        "assignments": (["--set", "seed", "--text", "TEXT"], "key=value"),
        "skip": (["--codec", "elastic", "--text", "TEXT", "--skip", "dwn"], "Did you mean down?"),
        "clip_roles": (["--text", "TEXT", "--clip-roles", "qq"], "Roles: q, k, v"),
        "clip_quantile": (["--text", "TEXT", "--clip-quantile", "2"], "inputs.clip.quantile"),
        "learning_rate": (["--text", "TEXT", "--learning-rate", "-1"], "learning_rate"),
        "device": (["--text", "TEXT", "--device", "gpu"], "Choose auto, cpu, cuda"),
    },
    "eval": {
        "checkpoint": (["nowhere"], "nowhere is not a converted checkpoint"),
        "a float model": (["MODEL"], "no spikeconv.json"),
        "tasks": (["CHECKPOINT", "--tasks", "piqua"], "did you mean piqa"),
        "tasks with spaces": (["--tasks", "piqa", "arc", "boolq"], "--tasks piqa,arc,boolq"),
        "suite": (["CHECKPOINT", "--suite", "sdlm"], "known suites: sdllm"),
        "made_from": (["CHECKPOINT", "--baseline", "--source", "lama2-7b"], "Did you mean the preset llama2-7b?"),
        "batch_size": (["CHECKPOINT", "--batch-size", "many"], "--batch-size"),
        "data": (["CHECKPOINT", "--tasks", "piqa", "--data", "ofline"], "auto, hub or offline"),
        "device": (["CHECKPOINT", "--device", "toaster"], "toaster"),
        "dtype": (["CHECKPOINT", "--dtype", "int8"], "int8"),
        "execution": (["CHECKPOINT", "--exec", "unfolded"], "Did you mean unfold?"),
        "memory_limits": (["CHECKPOINT", "--memory-limits", "20GB"], "0=20GB,cpu=60GB"),
        "offload_folder": (["CHECKPOINT", "--offload-folder", "/nowhere/f"], "is no folder"),
        "cache_dtype": (["CHECKPOINT", "--cache-dtype", "bfloat6"], "Did you mean bfloat16?"),
        "engine": (["CHECKPOINT", "--engine", "vlm"], "Did you mean vllm?"),
    },
    "perplexity": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "text": (["CHECKPOINT", "--text", "gone.txt"], "gone.txt"),
        "dataset": (["CHECKPOINT", "--dataset", "wikitext"], "Did you mean wikitext2?"),
        "both": (["CHECKPOINT", "--dataset", "c4", "--text", "TEXT"], "not both"),
        "max_tokens": (["CHECKPOINT", "--max-tokens", "9"], "holds no window"),
        "made_from": (["CHECKPOINT", "--source", "x"], "x is no directory"),
        **RUNS,
    },
    "similarity": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "text": (["CHECKPOINT", "--text", "EMPTY"], "is empty"),
        "made_from": (["CHECKPOINT", "--source", "x"], "x is no directory"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
        "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
        "execution": (["CHECKPOINT", "--exec", "x"], "execution 'x'"),
    },
    "record": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "output": (["CHECKPOINT", "-o", "TEXT"], "is no folder"),
        "text": (["CHECKPOINT", "--text", "FOLDER"], "Could not read"),
        "dataset": (["CHECKPOINT", "--dataset", "x"], "x is no file and no dataset"),
        "task": (["CHECKPOINT", "--task", "piqua"], "did you mean piqa"),
        "task with spaces": (["CHECKPOINT", "--task", "piqa", "arc"], "--task piqa,arc"),
        "data": (["CHECKPOINT", "--task", "piqa", "--data", "x"], "auto, hub or offline"),
        "raster": (["CHECKPOINT", "--raster", "*.dwn_proj"], "No converted linear is called *.dwn_proj"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
        "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
    },
    "report": {
        "sources": (["nowhere"], "nowhere is neither a converted checkpoint"),
        "output": (["CHECKPOINT", "-o", "TEXT"], "is a file"),
        "text": (["CHECKPOINT", "--text", "gone.txt"], "gone.txt"),
        "dataset": (["CHECKPOINT", "--dataset", "x"], "x is no file and no dataset"),
        "both": (["CHECKPOINT", "--dataset", "c4", "--text", "TEXT"], "not both"),
        "raster": (["CHECKPOINT", "--raster", "*.dwn_proj"], "No converted linear is called *.dwn_proj"),
        "profiles": (["CHECKPOINT", "--profile", "horowiz45"], "Did you mean horowitz45?"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
        "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
    },
    "report-firing-rate": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "text": (["CHECKPOINT", "--text", "gone.txt"], "gone.txt"),
        "recording": (["--record", "FOLDER"], "holds no record.json"),
        "both": (["CHECKPOINT", "--record", "FOLDER/record.json"], "leave CHECKPOINT out"),
        "firing": (["CHECKPOINT", "--firing", "asynch"], "--firing is sync, async"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
        "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
    },
    "report-energy": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "text": (["CHECKPOINT", "--text", "gone.txt"], "gone.txt"),
        "recording": (["--record", "FOLDER"], "holds no record.json"),
        "profiles": (["CHECKPOINT", "--profile", "horowiz45"], "Did you mean horowitz45?"),
        "profiles with spaces": (["--profile", "horowitz45", "sdllm45"], "--profile horowitz45,sdllm45"),
        "model": (["--model", "lama2-7b", "--rate", "0.2"], "Did you mean the preset llama2-7b?"),
        "bits": (["--model", "llama2-7b", "--rate", "0.2", "--bits", "x"], "bits"),
        "scheme": (["--model", "llama2-7b", "--rate", "0.2", "--scheme", "ramp5"], "Did you mean ramp-5?"),
        "assignments": (["--model", "llama2-7b", "--rate", "0.2", "--set", "x=1"], "x"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
    },
    "export": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "output": (["CHECKPOINT", "-o", "x.pt"], "must end in .npz"),
        "layers": (["CHECKPOINT", "--format", "events", "--layer", "dwn"], "No converted linear is called dwn"),
        "layers with spaces": (["--format", "events", "--layer", "a", "b"], "--layer a --layer b"),
        "text": (["CHECKPOINT", "--format", "events", "--text", "EMPTY"], "is empty"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
    },
    "frontier": {
        "source": (["smollm2"], "Did you mean the preset smollm2-135m?"),
        "grid": (["--grid", "gone.yaml"], "gone.yaml"),
        "points": (["--points", "ramp"], "ramp"),
        "points with spaces": (["--points", "float", "W4-T8"], "--points float,W4-T8"),
        "device": (["--device", "x"], "device 'x'"),
        "dtype": (["--dtype", "x"], "dtype 'x'"),
    },
    "verify": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "text": (["CHECKPOINT", "--text", "EMPTY"], "is empty"),
        "made_from": (["CHECKPOINT", "--source", "x"], "x is no directory"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
    },
    "check": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "made_from": (["CHECKPOINT", "--source", "x"], "x is no directory"),
    },
    "generate": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "prompt": (["CHECKPOINT", "-p", " "], "prompt is empty"),
        **RUNS,
    },
    "chat": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "system": (["CHECKPOINT", "--system", ""], "--system is empty"),
        **RUNS,
    },
    "serve": {
        "checkpoint": (["nowhere"], "nowhere is not"),
        "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
    },
    "bench": {
        "checkpoint": (["nowhere", "--model"], "nowhere is not"),
        "shapes": (["--shapes", "lama2-7b"], "Did you mean llama2-7b?"),
        "shapes with spaces": (["--shapes", "llama2-7b", "llama2-13b"], "--shapes llama2-7b,llama2-13b"),
        "tokens": (["--tokens", "few"], "--tokens must be"),
        "nonzero": (["--nonzero", "2"], "--nonzero must be"),
        "cached": (["--cached", "0"], "--cached must be"),
        "made_from": (["--source", "x"], "x is no directory"),
        "device": (["--device", "x"], "device 'x'"),
    },
    "card": {"checkpoint": (["nowhere"], "nowhere is not")},
    "push": {
        "names": (["CHECKPOINT", "nowhere"], "nowhere is no repository of the hub"),
        "a checkpoint": (["nowhere", "owner/name"], "nowhere is not a converted checkpoint"),
    },
    "compare": {
        "compared": (["CHECKPOINT", "nowhere"], "nowhere"),
        "measures": (["CHECKPOINT", "--measure", "spike"], "--measure is"),
        "text": (["CHECKPOINT", "--text", "EMPTY"], "is empty"),
        "dataset": (["CHECKPOINT", "--dataset", "wikitext"], "Did you mean wikitext2?"),
        "tasks": (["CHECKPOINT", "--measure", "tasks", "--tasks", "piqua"], "did you mean piqa"),
        "data": (["CHECKPOINT", "--measure", "tasks", "--tasks", "piqa", "--data", "x"], "auto, hub or offline"),
        "profiles": (["CHECKPOINT", "--profile", "horowiz45"], "Did you mean horowitz45?"),
        "output": (["CHECKPOINT", "-o", "x.txt"], "ends in none of"),
        "device": (["CHECKPOINT", "--device", "x"], "device 'x'"),
        "dtype": (["CHECKPOINT", "--dtype", "x"], "dtype 'x'"),
    },
    "doctor": {"checkpoint": (["nowhere"], "nowhere is not")},
}
"""By command and parameter: arguments, and what the sentence says. `plan` has those of `convert` that it has too."""
MISTAKES["plan"] = {
    name: mistake for name, mistake in MISTAKES["convert"].items() if name not in ("delete_source_shards", "log_file")
}
MISTAKES["plan"]["output"] = (["MODEL", "-o", "x", "y"], "unexpected extra argument")

RUN = """
import contextlib, io, json, sys
from spikeconv.cli.app import main
answers, before = [], set()
for arguments in json.load(sys.stdin):
    sys.argv = ["spikeconv", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: main()
        except SystemExit as stop: code = stop.code
    heavy = {"torch", "transformers", "datasets", "lm_eval", "accelerate"} & {*sys.modules}
    answers.append([code, out.getvalue(), err.getvalue(), sorted(heavy - before)])
    before |= heavy
print(json.dumps(answers))
"""


def test_mistakes_are_told_before_torch_is_imported(
    tiny_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "text.txt").write_text("It was the best of times.")
    (tmp_path / "file.pth").write_bytes(b"x")
    (tmp_path / "folder/record.json").write_text("{}")
    places = {
        "MODEL": tiny_checkpoint("llama"),
        "CHECKPOINT": converted("llama"),
        "FOLDER": tmp_path / "bare",
        "FOLDER/record.json": tmp_path / "folder/record.json",
        "EMPTY": tmp_path / "empty.txt",
        "TEXT": tmp_path / "text.txt",
        "FILE.pth": tmp_path / "file.pth",
    }
    (tmp_path / "bare").mkdir()
    cases = [
        (command, [command, *(str(places.get(word, word)) for word in arguments)], said)
        for command, mistakes in MISTAKES.items()
        for arguments, said in mistakes.values()
    ]
    asked = json.dumps([arguments for _, arguments, _ in cases])
    done = subprocess.run([sys.executable, "-c", RUN], input=asked, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wrong = [
        (arguments, code, out, err, heavy)
        for (_, arguments, said), (code, out, err, heavy) in zip(cases, json.loads(done.stdout), strict=True)
        if (code, out, heavy) != (2, "", []) or said not in " ".join(err.replace("│", "").split())
    ]
    assert not wrong, "\n".join(map(repr, wrong))


def test_every_argument_has_a_mistake() -> None:
    """All that take words: numbers and choices are checked by the parser itself."""
    free = {
        "eval": {"output"},
        "frontier": {"output"},
        "push": {"revision", "message"},
        "serve": {"host", "options"},
    }  # any will do
    for command in app.registered_commands:
        assert command.callback is not None and command.name is not None
        for name, param in inspect.signature(command.callback).parameters.items():
            kind = get_args(param.annotation)[0]
            takes_words = not {str, Path, list[str]}.isdisjoint(get_args(kind) or (kind,))
            if takes_words and name not in free.get(command.name, ()):
                assert name in MISTAKES.get(command.name, {}), f"{command.name}: {name}"
