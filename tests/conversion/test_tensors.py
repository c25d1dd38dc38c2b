"""Every tensor of a source is read, ignored with a reason that the plan tells, or a reason to refuse it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.sources.hf import HfSource
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]
WEIGHTS = "model.safetensors"
ATTENTION = "model.layers.1.self_attn"
FREQUENCIES = f"{ATTENTION}.rotary_emb.inv_freq"


@pytest.fixture
def source(tiny_checkpoint: Fixture, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source"))


def add(source: Path, tensors: dict[str, Tensor], drop: tuple[str, ...] = ()) -> Path:
    held = {name: tensor for name, tensor in load_file(source / WEIGHTS).items() if name not in drop}
    save_file({**held, **tensors}, source / WEIGHTS, metadata={"format": "pt"})
    return source


def plan(source: Path) -> Plan:
    return make_plan(HfSource(source), SpikeConfig())


OURS = ("weight_scale", "weight_sum", "input_threshold", "bias", "weight_clip")
FOREIGN = {
    **{f"{ATTENTION}.q_proj.{name}": torch.ones(72) for name in OURS},
    **{f"{ATTENTION}.q_proj.weight_scale{i}": torch.ones(shape) for i, shape in enumerate(((), (1,), (0,), (72, 1)))},
    "model.layers.2.self_attn.q_proj.weight": torch.ones(72, 72),
    "lm_head.bias": torch.ones(258),
    "score.weight": torch.ones(2, 72),
    "model.layers.0.mlp.ünïcode…": torch.ones(3),
    "": torch.ones(1),
    "a" * 300: torch.ones(1),
    "a\nb": torch.ones(1),
    "model..layers.weight.": torch.ones(1),
    "rotary_emb_inv_freq": torch.ones(4),
    "model.rotary_emb.inv_freq.more": torch.ones(4),
}


def test_what_the_model_does_not_have_is_refused(source: Path) -> None:
    held = load_file(source / WEIGHTS)
    for name, tensor in FOREIGN.items():
        save_file({**held, name: tensor}, source / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(SpikeconvError) as caught:
            plan(source)
        shown = {"a\nb": r"'a\nb'", "a" * 300: "a" * 99 + "…"}.get(name, name)
        words = f"holds {shown} (float32 {list(tensor.shape)}), which a LlamaForCausalLM"
        assert words in str(caught.value) and "\n" not in str(caught.value), name


def test_another_model_s_tensors(source: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in load_file(source / WEIGHTS).items()}
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(SpikeconvError, match=r"none of the 21 tensors .*, but module\.model\.\S+, .* and 17 more"):
        plan(source)


def test_what_it_looks_like_is_said(source: Path) -> None:
    looks = {
        "another quantization": {f"{ATTENTION}.{x}_proj.qweight": torch.ones(2, dtype=torch.int32) for x in "qkvo"},
        "a LoRA adapter": {f"{ATTENTION}.q_proj.lora_A.default.weight": torch.ones(2, 2)},
    }
    held = load_file(source / WEIGHTS)
    for words, tensors in looks.items():
        save_file({**held, **tensors}, source / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(SpikeconvError, match=rf"They look like .*{words.split()[-1]}"):
            plan(source)
    with pytest.raises(SpikeconvError, match=r"k_proj\.qweight \(I32 \[2\]\), .* and 1 more, which"):
        plan(add(source, looks["another quantization"], drop=tuple(looks["a LoRA adapter"])))


def test_what_old_versions_wrote_is_ignored_with_the_reason(
    source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    run_convert(source, tmp_path / "plain")
    integers = torch.arange(64, dtype=torch.int64)
    made = plan(add(source, {FREQUENCIES: torch.full((4,), torch.nan), "model.position_ids": integers}))
    assert made.ignored.keys() == {FREQUENCIES, "model.position_ids"} and all(made.ignored.values())
    assert made.to_dict()["ignored"] == made.ignored
    assert "model.layers.*.self_attn.rotary_emb.inv_freq" in made.ignored_summary()
    run_convert(source, tmp_path / "out")
    ours, theirs = (load_file(tmp_path / name / WEIGHTS) for name in ("out", "plain"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((tmp_path / "out/spikeconv.json").read_text())["ignored"] == made.ignored
    assert torch.equal(logits_of(tmp_path / "out"), logits_of(tmp_path / "plain"))


def test_either_of_a_tied_pair_is_enough(
    source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    run_convert(source, tmp_path / "plain")
    embeddings = load_file(source / WEIGHTS)["model.embed_tokens.weight"]
    add(source, {"lm_head.weight": embeddings}, drop=("model.embed_tokens.weight",))
    run_convert(source, tmp_path / "head")
    assert torch.equal(logits_of(tmp_path / "head"), logits_of(tmp_path / "plain"))
    assert verify(load_checkpoint(tmp_path / "head"), "spikes", tokens=4).clean
    add(source, {}, drop=("lm_head.weight",))
    with pytest.raises(SpikeconvError, match=r"holds no tensor model\.embed_tokens\.weight"):
        plan(source)


def test_a_tied_pair_that_differs_is_kept_apart_as_transformers_does(
    source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    add(source, {"lm_head.weight": torch.randn(258, 72)})
    run_convert(source, tmp_path / "out")
    float_model, converted = (AutoModelForCausalLM.from_pretrained(path) for path in (source, tmp_path / "out"))
    assert torch.equal(converted.lm_head.weight, float_model.lm_head.weight)
    assert torch.equal(converted.model.embed_tokens.weight, float_model.model.embed_tokens.weight)
    assert not torch.equal(converted.lm_head.weight, converted.model.embed_tokens.weight)


def test_pickles_with_shared_storage_and_odd_layouts(source: Path, run_convert: Fixture, tmp_path: Path) -> None:
    run_convert(source, tmp_path / "plain")
    tensors = load_file(source / WEIGHTS)
    name = f"{ATTENTION}.q_proj.weight"
    whole = torch.cat([tensors[name], tensors[name]]).t()  # a view of a larger storage, transposed
    odd: dict[str, Tensor] = {**tensors, name: torch.nn.Parameter(whole.t()[:72])}
    odd["lm_head.weight"] = odd["model.embed_tokens.weight"]
    (source / WEIGHTS).unlink()
    torch.save(odd, source / "pytorch_model.bin")
    run_convert(source, tmp_path / "out")
    ours, theirs = (load_file(tmp_path / folder / WEIGHTS) for folder in ("out", "plain"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for wrong, words in (
        (tensors[name].to_sparse(), "sparse"),
        (torch.empty(72, 72, device="meta"), "meta"),
        (tensors[name].to(torch.complex64), "complex64"),
    ):
        torch.save({**tensors, name: wrong}, source / "pytorch_model.bin")
        with pytest.raises(SpikeconvError, match=rf"{name}.*{words}"):
            plan(source)
