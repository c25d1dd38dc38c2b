"""Every bad input is one sentence that names what is wrong, and leaves no output behind."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spikeconv.errors import SpikeconvError

Fixture = Callable[..., Any]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
Q = "model.layers.1.self_attn.q_proj.weight"


def edit_config(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    config.update(fields)
    kept = {key: value for key, value in config.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(kept))


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path / WEIGHTS)
    edit(tensors)
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})


def edit_header(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the safetensors header (8 bytes of length, then JSON) without touching the data."""
    data = (path / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    edit(header)
    encoded = json.dumps(header).encode()
    (path / WEIGHTS).write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def write_index(path: Path, shard: str, name: str = Q) -> None:
    """An index in the place of the one file, which would be read first."""
    (path / WEIGHTS).rename(path / SHARD)
    (path / INDEX).write_text(json.dumps({"weight_map": {name: shard}}))


def set_first(tensors: dict[str, torch.Tensor], name: str, value: float) -> None:
    tensors[name].view(-1)[3] = value


DAMAGES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no directory": (shutil.rmtree, ["config.json", "does not exist"]),
    "no config": (lambda p: (p / "config.json").unlink(), ["config.json", "does not exist"]),
    "config is not JSON": (lambda p: (p / "config.json").write_text("{"), ["config.json", "JSON"]),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), ["config.json", "list", "object"]),
    "config is binary": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), ["config.json", "JSON"]),
    "no layer count": (lambda p: edit_config(p, num_hidden_layers=...), ["no tensor", "model.layers.2."]),
    "layer count is a word": (lambda p: edit_config(p, num_hidden_layers="two"), ["config.json", "num_hidden_layers"]),
    "heads do not divide": (lambda p: edit_config(p, num_attention_heads=7, head_dim=...), ["config.json"]),
    "no safetensors": (lambda p: (p / WEIGHTS).unlink(), ["holds no weights", WEIGHTS]),
    "pickle is none": (
        lambda p: (p / WEIGHTS).rename(p / "pytorch_model.bin"),
        ["pytorch_model.bin", "not a readable torch file"],
    ),
    "pickle with code": (
        lambda p: torch.save({Q: Path}, (p / WEIGHTS).rename(p / "pytorch_model.bin")),
        ["pytorch_model.bin", "more than tensors"],
    ),
    "empty file": (lambda p: (p / WEIGHTS).write_bytes(b""), [WEIGHTS, "safetensors"]),
    "truncated": (lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:-100]), [WEIGHTS, "truncated"]),
    "header cut": (lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:50]), [WEIGHTS, "truncated"]),
    "header length huge": (
        lambda p: (p / WEIGHTS).write_bytes(b"\xff" * 7 + b"\x7f" + (p / WEIGHTS).read_bytes()[8:]),
        [WEIGHTS, "malformed"],
    ),
    "header not JSON": (lambda p: (p / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"oops"), [WEIGHTS, "malformed"]),
    "offset beyond the file": (
        lambda p: edit_header(p, lambda h: h[Q].update(data_offsets=[0, 1 << 40])),
        [WEIGHTS, "malformed"],
    ),
    "shape against offsets": (
        lambda p: edit_header(p, lambda h: h[Q].update(shape=[9999, 9999])),
        [WEIGHTS, "malformed"],
    ),
    "negative offset": (lambda p: edit_header(p, lambda h: h[Q].update(data_offsets=[-4, 8])), [WEIGHTS, "malformed"]),
    "missing shard": (lambda p: write_index(p, "model-00002-of-00002.safetensors"), [INDEX, "00002", "missing"]),
    "shard above": (lambda p: write_index(p, "../secret.safetensors"), [INDEX, "../secret", "outside"]),
    "shard at the root": (lambda p: write_index(p, "/etc/passwd"), [INDEX, "/etc/passwd", "outside"]),
    "shard name too long": (lambda p: write_index(p, "x" * 5000), [INDEX, "xxx…", "missing"]),
    "shard is the parent": (lambda p: write_index(p, ".."), [INDEX, "'..'", "outside"]),
    "index without map": (lambda p: (p / WEIGHTS).rename(p / INDEX).write_text("{}"), [INDEX, "weight_map"]),
    "index is not JSON": (lambda p: (p / WEIGHTS).rename(p / INDEX).write_text("{"), [INDEX, "JSON"]),
    "index lies": (lambda p: write_index(p, SHARD, "model.no_such.weight"), [INDEX, "model.no_such.weight", SHARD]),
    "tensor missing": (lambda p: edit_tensors(p, lambda t: t.pop(Q)), ["no tensor", Q]),
    "norm missing": (
        lambda p: edit_tensors(p, lambda t: t.pop("model.norm.weight")),
        ["no tensor", "model.norm.weight"],
    ),
    "NaN": (lambda p: edit_tensors(p, lambda t: set_first(t, Q, float("nan"))), [Q, "NaN"]),
    "infinity": (lambda p: edit_tensors(p, lambda t: set_first(t, Q, -float("inf"))), [Q, "infinity"]),
    "NaN in a norm": (
        lambda p: edit_tensors(p, lambda t: set_first(t, "model.norm.weight", float("nan"))),
        ["model.norm.weight", "NaN"],
    ),
    "integers": (lambda p: edit_tensors(p, lambda t: t.update({Q: t[Q].to(torch.int8)})), [Q, "I8", "float"]),
    "float8": (lambda p: edit_tensors(p, lambda t: t.update({Q: t[Q].to(torch.float8_e4m3fn)})), [Q, "F8", "float"]),
    "transposed": (
        lambda p: edit_tensors(p, lambda t: t.update({Q: t[Q][:, :-1].contiguous()})),
        [Q, "(72, 71)", "(72, 72)"],
    ),
    "unknown architecture": (
        lambda p: edit_config(p, model_type="llama4", architectures=["Llama4ForCausalLM"]),
        ["Llama4ForCausalLM", "Did you mean LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"],
    ),
    "no architecture": (lambda p: edit_config(p, model_type=..., architectures=...), ["nothing", "LlamaForCausalLM"]),
    "generation config": (
        lambda p: (p / "generation_config.json").write_text("[1]"),
        ["generation_config.json", "list"],
    ),
    "gptq": (lambda p: edit_config(p, quantization_config={"quant_method": "gptq", "bits": 4}), ["gptq", "float"]),
}


@pytest.fixture
def source(tiny_checkpoint: Fixture, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source"))


def refused(run_convert: Fixture, source: Path, output: Path) -> str:
    with pytest.raises(SpikeconvError) as caught:
        run_convert(source, output)
    return str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_source(damage: str, source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    harm, words = DAMAGES[damage]
    harm(source)
    sentence = refused(run_convert, source, tmp_path / "out")
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence.strip(), sentence
    assert {path.name for path in tmp_path.iterdir()} <= {"source"}


def test_all_zero_row_converts(source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    edit_tensors(source, lambda t: t[Q][5].zero_())
    run_convert(source, tmp_path / "out")
    scale = load_file(tmp_path / "out" / WEIGHTS)[Q + "_scale"]
    assert scale[5] == 1 and (scale > 0).all()
    assert logits_of(tmp_path / "out").isfinite().all()


def test_all_zero_linear_converts(source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    edit_tensors(source, lambda t: t[Q].zero_())
    summary = run_convert(source, tmp_path / "out")
    assert summary.layers[1].relative_error["q"] == 0
    assert logits_of(tmp_path / "out").isfinite().all()


def test_other_float_types_convert(
    source: Path, run_convert: Fixture, logits_of: Fixture, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Each with its name in the config and without, and mixed; float64 becomes float32, in which it is computed."""
    plain = load_file(source / WEIGHTS)
    mixed = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    for kinds in ([torch.float16], [torch.bfloat16], [torch.float64], mixed):
        tensors = {name: tensor.to(kinds[i % len(kinds)]) for i, (name, tensor) in enumerate(plain.items())}
        save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
        for named in [None, "float32"] if len(kinds) > 1 else [None, str(kinds[0]).removeprefix("torch.")]:
            edit_config(source, dtype=named)
            run_convert(source, tmp_path / "out", force=True)
            for name, tensor in load_file(tmp_path / "out" / WEIGHTS).items():
                kept = tensors[name].dtype if name in tensors else torch.float32
                kept = torch.float32 if kept == torch.float64 else kept
                assert tensor.dtype == (torch.uint8 if name.endswith("_proj.weight") else kept), name
            computed = AutoModelForCausalLM.from_pretrained(source).dtype
            model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
            assert model.dtype == (torch.float32 if computed == torch.float64 else computed)
            assert logits_of(model).isfinite().all()
            model.generate(tokens[:1], max_new_tokens=2, do_sample=False)


ABSURD: dict[str, tuple[str, torch.dtype, float, Any, list[str]]] = {
    "weights": (Q, torch.float32, 3e38, None, [Q, "3e+38", "float32"]),
    "beyond float32": (Q, torch.float64, 1e300, None, [Q, "1e+300", "float32"]),
    "beyond --dtype": ("model.norm.weight", torch.float32, 1e6, torch.float16, ["norm", "1e+06", "float16"]),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_values(kind: str, source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    name, held, value, dtype, words = ABSURD[kind]
    edit_tensors(source, lambda t: t.update({name: torch.full_like(t[name], value, dtype=held)}))
    with pytest.raises(SpikeconvError) as caught:
        run_convert(source, tmp_path / "out", dtype=dtype)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "out").exists()


def test_converted_source(converted: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    sentence = refused(run_convert, converted("llama"), tmp_path / "out")
    assert "already converted" in sentence and str(converted("llama")) in sentence


def test_output_below_a_file(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    sentence = refused(run_convert, source, tmp_path / "file" / "deeper" / "out")
    assert "cannot be created" in sentence and str(tmp_path / "file") in sentence
    assert (tmp_path / "file").read_text() == "mine"


def test_full_disk(source: Path, run_convert: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it happens: a sentence, what was converted stays, and the same conversion goes on."""
    pwrite, written = os.pwrite, []
    for last in (0, 1, 5, 20):

        def full(file: int, data: Any, at: int) -> int:
            written.append(at)
            if len(written) > last:  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(file, data, at)

        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            sentence = refused(run_convert, source, tmp_path / "out")
        assert "No space left on device" in sentence and str(tmp_path / "out") in sentence
        kept = {path.name for path in tmp_path.iterdir()} - {"source"}
        assert kept == ({".out.incomplete"} if last > 1 else set()), last
        assert ("the same command goes on" in sentence) == bool(kept)
    run_convert(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}
