"""A conversion end to end: every file arrives, hashes are right, and the same input gives the same bytes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from killing import fail_at_read
from safetensors.torch import load_file

from spikeconv.config import SpikeConfig
from spikeconv.conversion.log import ConversionLog
from spikeconv.conversion.memory import converted_tensors
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.families.norm import RMS_PLUS_ONE
from spikeconv.rotation import Rotation
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


@pytest.fixture
def source(tiny_checkpoint: Fixture, tmp_path: Path) -> Path:
    """A copy that may be changed, with companions of every sort beside the weights."""
    path: Path = shutil.copytree(tiny_checkpoint("qwen2"), tmp_path / "source")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    (path / "LICENSE").write_text("licence")
    (path / "assets").mkdir()
    (path / "assets" / "figure.txt").write_text("figure")
    (path / "original").mkdir()
    for weights in ("pytorch_model.bin", "consolidated.pth", "original/consolidated.00.pth", "original/a.safetensors"):
        (path / weights).write_bytes(b"weights")
    (path / ".gitattributes").write_text("hidden")
    return path


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def headers_of(shards: list[Path]) -> dict[str, str]:
    """Hashes of the bytes in front of the tensors."""
    ends = {path: 8 + int.from_bytes(path.read_bytes()[:8], "little") for path in shards}
    return {path.name: blake3(path.read_bytes()[:end]).hexdigest() for path, end in ends.items()}


def hashes_of(shards: list[Path]) -> dict[str, str]:
    """Hashes of every tensor."""
    tensors = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    data = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    return {name: blake3(each).hexdigest() for name, each in data.items()}


def test_every_companion_arrives_and_no_foreign_weight(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run_convert(source, output)
    companions = files(source) - {".gitattributes"}
    companions = {name for name in companions if not name.endswith((".safetensors", ".bin", ".pth"))}
    assert files(output) == companions | {"model.safetensors", "spikeconv.json", "README.md"}
    for name in companions - {"config.json"}:
        assert (output / name).read_bytes() == (source / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}  # no scratch


def test_record(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = run_convert(source, output, bits="4-1", skip=["o"], seed=5)
    record = json.loads((output / "spikeconv.json").read_text())
    assert record["files"] == {} and record["source"]["path"] == str(source)
    assert record["headers"] == headers_of([output / "model.safetensors"])
    assert record["tensors"] == hashes_of([output / "model.safetensors"])
    assert record["source"]["tensors"] == hashes_of([source / "model.safetensors"])
    assert record["command"] == "test" and record["family"] == "qwen2"
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["layers"]) == summary.converted == 12
    layer = record["layers"]["model.layers.0.self_attn.q_proj"]
    assert (layer["role"], layer["virtual_steps"], layer["weights"]["bits"], layer["rotation"]["seed"]) == (
        "q",
        15,
        4,
        5,
    )
    assert set(record["skipped"]) >= {"lm_head", "model.layers.1.self_attn.o_proj"}
    config = json.loads((output / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "spikeconv" and config["format"] == 2
    assert SpikeConfig.parse(record["config"]) == SpikeConfig.parse({"bits": "4-1", "skip": ["o"], "seed": 5})
    assert record["config"].items() <= config.items()
    card = (output / "README.md").read_text()
    assert source.name in card and str(source) not in card and 'from_pretrained("out")' in card


def test_summary_adds_up(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    summary = run_convert(source, tmp_path / "out", bits="4-1.58")
    assert (summary.bits, summary.virtual_steps, summary.skipped) == ("4-1.58", 8, 2)
    assert summary.bytes_before == (source / "model.safetensors").stat().st_size
    assert summary.bytes_after == sum(t.nbytes for t in load_file(tmp_path / "out/model.safetensors").values())
    assert [layer.layer for layer in summary.layers] == [0, 1]
    errors = [error for layer in summary.layers for error in layer.relative_error.values()]
    assert len(errors) == 14 and summary.mean_relative_error == pytest.approx(sum(errors) / 14)
    assert all(0 < error < 0.2 for error in errors)  # 4-bit rounding noise is about 0.1
    assert json.loads(json.dumps(summary.to_dict()))["converted"] == 14


def test_other_tensors_are_untouched(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    run_convert(source, tmp_path / "out")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    converted = {name.removesuffix("_scale") for name in after if name.endswith(".weight_scale")}
    assert len(converted) == 14 and before.keys() == {name for name in after if not name.endswith("_scale")}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - converted)


def test_dtype_casts_what_stays_float(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    run_convert(source, tmp_path / "out", dtype=torch.bfloat16)
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        packed = name.endswith("_proj.weight")
        scale = name.endswith("weight_scale")
        assert tensor.dtype == (torch.uint8 if packed else torch.float32 if scale else torch.bfloat16), name
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"


def test_same_input_same_bytes(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    torch.manual_seed(1)
    run_convert(source, tmp_path / "a")
    torch.manual_seed(2)
    run_convert(source, tmp_path / "b")
    run_convert(source, tmp_path / "c", seed=1)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert (tmp_path / "a/config.json").read_bytes() == (tmp_path / "b/config.json").read_bytes()


def test_small_shards_hold_the_same_model(
    source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_convert(source, tmp_path / "one")
    summary = run_convert(source, tmp_path / "many", writing=Writing(shard_bytes=4000))
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert [s.name for s in shards] == [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]
    parts = [load_file(shard) for shard in shards]
    assert len(shards) > 5
    assert all(sum(t.nbytes for t in part.values()) <= 4000 for part in parts if len(part) > 1)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    held = {name: shard.name for shard, part in zip(shards, parts, strict=True) for name in part}
    assert index == {"metadata": {"total_size": summary.bytes_after}, "weight_map": held}
    record = json.loads((tmp_path / "many/spikeconv.json").read_text())
    assert record["headers"] == headers_of(shards) and record["tensors"] == hashes_of(shards)
    assert torch.equal(logits_of(tmp_path / "many"), logits_of(tmp_path / "one"))


def test_sharded_source(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    run_convert(tmp_path / "sharded", tmp_path / "out")
    run_convert(tiny_checkpoint("qwen2"), tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("out", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert not (tmp_path / "out/model.safetensors.index.json").exists()


@pytest.mark.parametrize("shards", [1, 2])
def test_older_checkpoints_are_pickles(
    shards: int, tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_checkpoint("rwkv"), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, source / "pytorch_model.bin")
    else:
        weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(tensors)}
        for file in set(weight_map.values()):
            torch.save({name: tensors[name] for name in tensors if weight_map[name] == file}, source / file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    run_convert(source, tmp_path / "out")
    run_convert(tiny_checkpoint("rwkv"), tmp_path / "expected")
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("out", "expected"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert not list((tmp_path / "out").glob("*.bin*"))


def test_a_second_copy_of_the_weights_is_not_converted(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    """Mistral's repositories hold `consolidated.safetensors`, the same weights under other names."""
    shutil.copyfile(source / "model.safetensors", source / "consolidated.safetensors")
    assert HfSource(source).weight_files() == [source / "model.safetensors"]


def test_tensors_are_tracked_and_logged(source: Path, tmp_path: Path) -> None:
    opened, tracked = HfSource(source), []

    def track(items: Any, description: str, total: int | None = None) -> Any:
        assert total == len(opened.names())
        for item in items:
            tracked.append(item)
            yield item

    plan, output = make_plan(opened, SpikeConfig()), tmp_path / "out"
    with ConversionLog(tmp_path / "log.jsonl", output) as log:
        layers = convert(opened, plan, output, track=track, log=log).layers
    assert tracked == opened.names()
    assert [result.layer for result in layers] == [0, 1]
    assert all(set(result.relative_error) == {"q", "k", "v", "o", "gate", "up", "down"} for result in layers)
    begin, *tensors, end = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (begin["event"], begin["source"], end["event"]) == ("begin", str(source), "end")
    assert [line["name"] for line in tensors] == opened.names()
    written = {name: digest for line in tensors for name, digest in line["written"].items()}
    assert written == json.loads((output / "spikeconv.json").read_text())["tensors"]
    for line in tensors:
        if "role" in line:
            assert line["relative_error"] == layers[line["layer"]].relative_error[line["role"]]
    assert [line["time"] for line in tensors] == sorted(line["time"] for line in tensors)


def test_the_log_of_a_conversion_that_fails(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at_read(monkeypatch, 3, MemoryError)
    opened, output = HfSource(source), tmp_path / "out"
    with pytest.raises(MemoryError), ConversionLog(tmp_path / "log.jsonl", output) as log:
        convert(opened, make_plan(opened, SpikeConfig()), output, log=log)
    lines = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == ["begin", "tensor", "tensor", "tensor", "stopped"]
    for path, word in ((output / "log.jsonl", "lies in"), (tmp_path, "cannot be written")):
        with pytest.raises(SpikeconvError, match=word):
            ConversionLog(path, output)


def test_an_output_inside_the_source_does_not_hold_itself(source: Path, run_convert: Fixture) -> None:
    run_convert(source, source / "spiking")
    assert not [name for name in files(source / "spiking") if "spiking" in name or "incomplete" in name]


def test_a_norm_of_one_plus_gamma_is_folded_as_such(tiny_checkpoint: Fixture) -> None:
    """QuaRot: W (1 + γ), and the norm itself stores 0."""
    source = HfSource(tiny_checkpoint("llama"))
    plan = make_plan(source, SpikeConfig.parse({"bits": "16-16", "rotation": "quarot"}))
    plan = replace(plan, layout=tuple(replace(linear, norm_kind=RMS_PLUS_ONE) for linear in plan.layout))
    found = converted_tensors(source, plan)
    for linear in plan.layout:
        weight = source.load(f"{linear.name}.weight")
        gamma = 1 + source.load(f"{linear.norm}.weight") if linear.norm else torch.ones(weight.shape[1])
        expected = Rotation(weight.shape[1], 2)(weight * gamma)
        torch.testing.assert_close(found[f"{linear.name}.weight"].squeeze(1), expected, rtol=0, atol=1e-6)
        if linear.norm:
            assert not found[f"{linear.norm}.weight"].any()
