"""A GGUF file is the checkpoint it was made from: the writer here follows llama.cpp's `convert_hf_to_gguf.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import load_file
from transformers import AutoTokenizer

from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.sources.gguf import GgufSource
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]
SIZES = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 2}


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def source(request: pytest.FixtureRequest, tiny_checkpoint: Fixture) -> Path:
    return Path(tiny_checkpoint(request.param, **SIZES))


def test_tensors_are_the_originals(source: Path, tmp_path: Path) -> None:
    write_gguf(source, tmp_path / "model.gguf")
    opened, originals = GgufSource(tmp_path / "model.gguf"), load_file(source / "model.safetensors")
    assert set(opened.names()) == set(originals)
    for name, tensor in originals.items():
        assert opened.shape(name) == tuple(tensor.shape) and opened.dtype(name) == torch.float32
        assert torch.equal(opened.load(name), tensor), name


def test_q8_is_within_half_a_step(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", **SIZES)
    write_gguf(source, tmp_path / "model.gguf", quantize=True)
    opened = GgufSource(tmp_path / "model.gguf")
    for name, tensor in load_file(source / "model.safetensors").items():
        values = opened.load(name)
        if tensor.ndim == 1:
            assert torch.equal(values, tensor)
            continue
        blocks = tensor.view(-1, 32)  # Q8_0: one float16 scale, max/127, for 32 weights
        bound = blocks.abs().amax(1, keepdim=True) / 127 * 0.5 + blocks.abs() * 2**-10
        assert ((values.view(-1, 32) - blocks).abs() <= bound).all(), name
        assert not torch.equal(values, tensor)


def test_converts_to_the_same_model(
    source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(source, tmp_path / "model.gguf")
    opened, config = GgufSource(tmp_path / "model.gguf"), SpikeConfig()
    convert(opened, make_plan(opened, config), tmp_path / "gguf")
    run_convert(source, tmp_path / "hf")
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("gguf", "hf"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert torch.equal(logits_of(tmp_path / "gguf"), logits_of(tmp_path / "hf"))
    loaded = load_checkpoint(tmp_path / "gguf")
    capsys.readouterr()
    result = verify(loaded, "spikes", tokens=4)
    assert result.clean and result.source_reader == "transformers", result
    assert not capsys.readouterr().err
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / d) for d in ("gguf", "hf")]
    assert tokenizers[0]("spikes")["input_ids"][-6:] == tokenizers[1]("spikes")["input_ids"]


def test_a_depth_that_is_the_default_of_the_config(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """transformers leaves values equal to its defaults out of a config: LLaMA's 32 layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    write_gguf(tiny_checkpoint("llama", **sizes, num_hidden_layers=32), tmp_path / "model.gguf")
    plan = make_plan(GgufSource(tmp_path / "model.gguf"), SpikeConfig())
    assert len(plan.jobs) == 32 * 7


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"not gguf at all" * 9])
def test_bad_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(SpikeconvError, match=r"model\.gguf is not a readable GGUF file"):
        GgufSource(tmp_path / "model.gguf")


def test_truncated_file(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(SpikeconvError, match=r"model\.gguf is not a readable GGUF file"):
        GgufSource(tmp_path / "model.gguf")


def test_missing_tensor(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf", keep=lambda key: key != name)
    with pytest.raises(SpikeconvError, match=rf"no tensor for {name}.*blk\.1\.ffn_up\.weight"):
        GgufSource(tmp_path / "model.gguf")


def test_scaled_rotary_frequencies_are_not_forgotten(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """LLaMA 3.1 files carry the factors as a tensor, which transformers does not read."""
    source = tiny_checkpoint("llama", **SIZES)
    write_gguf(source, tmp_path / "plain.gguf", rope_factors=[1.0] * 8)
    GgufSource(tmp_path / "plain.gguf")
    write_gguf(source, tmp_path / "scaled.gguf", rope_factors=[1.0] * 4 + [32.0] * 4)
    with pytest.raises(SpikeconvError, match=r"scaled\.gguf scales its rotary frequencies"):
        GgufSource(tmp_path / "scaled.gguf")


def test_other_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SpikeconvError, match=r"architecture mamba; supported: llama, qwen2, qwen3"):
        GgufSource(tmp_path / "model.gguf")


def test_biases_are_read(tiny_checkpoint: Fixture, run_convert: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    """LLaMA with biases (Bielik v3): no key of the file says so, its tensors do."""
    for attention, mlp in ((True, True), (True, False), (False, True)):
        source = tiny_checkpoint("llama", **SIZES, attention_bias=attention, mlp_bias=mlp)
        write_gguf(source, tmp_path / "model.gguf")
        opened, originals = GgufSource(tmp_path / "model.gguf"), load_file(source / "model.safetensors")
        assert set(opened.names()) == set(originals)
        assert all(torch.equal(opened.load(name), tensor) for name, tensor in originals.items())
        assert (opened.config.get("attention_bias", False), opened.config.get("mlp_bias", False)) == (attention, mlp)
    out = tmp_path / "out"
    convert(opened, make_plan(opened, SpikeConfig()), out)
    run_convert(source, tmp_path / "hf")
    assert torch.equal(logits_of(out), logits_of(tmp_path / "hf"))
    assert verify(load_checkpoint(out), "spikes", tokens=4).clean


def part(number: int, count: int = 2) -> Callable[[gguf.GGUFWriter], None]:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        if number:  # the metadata is in the first part
            for key in [key for key in writer.kv_data[0] if not key.startswith(("split", "general"))]:
                del writer.kv_data[0][key]

    return edit


def test_a_split_file_is_read_with_its_parts(source: Path, tmp_path: Path) -> None:
    names = [tmp_path / f"model-0000{i}-of-00002.gguf" for i in (1, 2)]
    write_gguf(source, names[0], keep=lambda name: ".1." not in name and name != "lm_head.weight", edit=part(0))
    write_gguf(source, names[1], keep=lambda name: ".1." in name or name == "lm_head.weight", edit=part(1))
    opened, originals = GgufSource(names[0]), load_file(source / "model.safetensors")
    assert set(opened.names()) == set(originals) and opened.weight_files() == names
    assert all(torch.equal(opened.load(name), tensor) for name, tensor in originals.items())
    convert(opened, make_plan(opened, SpikeConfig()), tmp_path / "out")
    result = verify(load_checkpoint(tmp_path / "out"), "spikes", tokens=4)
    assert result.clean and result.source_reader == "spikeconv" and "transformers cannot read" in " ".join(result.notes)


def test_parts_that_are_not_all_there(source: Path, tmp_path: Path) -> None:
    first, second = (tmp_path / f"model-0000{i}-of-00002.gguf" for i in (1, 2))
    write_gguf(source, first, edit=part(0))
    for path, words in ((first, "split file, of which model-00002-of-00002.gguf is missing"), (second, "")):
        if words == "":
            write_gguf(source, path, edit=part(1))
            words = "is part 00002 of a split file; give the first one, model-00001-of-00002.gguf"
        with pytest.raises(SpikeconvError, match=words):
            GgufSource(path)
    with pytest.raises(SpikeconvError, match="which an earlier part of the split file holds too"):
        GgufSource(first)
    with pytest.raises(SpikeconvError, match="one of 2 parts of a split file, but not called"):
        GgufSource(first.rename(tmp_path / "renamed.gguf"))


def test_rows_of_padding_are_part_of_the_vocabulary(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", **SIZES, vocab_size=320)
    write_gguf(source, tmp_path / "model.gguf", edit=lambda writer: writer.kv_data[0].pop("llama.vocab_size"))
    opened = GgufSource(tmp_path / "model.gguf")
    assert opened.config["vocab_size"] == 320
    make_plan(opened, SpikeConfig())


def drop(key: str) -> Callable[[gguf.GGUFWriter], Any]:
    return lambda writer: writer.kv_data[0].pop(key)


REFUSED: dict[str, tuple[Callable[[gguf.GGUFWriter], Any], str]] = {
    "no depth": (drop("llama.block_count"), r"holds no llama\.block_count above 0"),
    "no width": (drop("llama.embedding_length"), r"holds no llama\.embedding_length above 0"),
    "no heads": (drop("llama.attention.head_count"), r"holds no llama\.attention\.head_count above 0"),
    "endless": (
        lambda w: (drop("llama.block_count")(w), w.add_block_count(2_000_000_000)),
        "has 2000000000 layers, but 20 tensors",
    ),
    "heads by layer": (
        lambda w: (drop("llama.attention.head_count")(w), w.add_head_count([6, 6])),
        r"head_count is \[6, 6\]; expected one whole number",
    ),
    "partial rotary": (lambda w: w.add_rope_dimension_count(8), "rotates 8 of the 16 inputs of a head"),
    "stretched": (
        lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
        r"scaling\.type = yarn, which is",
    ),
    "experts": (lambda w: w.add_expert_count(8), r"llama\.expert_count = 8, which is lost"),
    "another width": (
        lambda w: (drop("llama.feed_forward_length")(w), w.add_feed_forward_length(161)),
        r"mlp\.gate_proj\.weight has shape \(160, 96\), config\.json asks for \(161, 96\)",
    ),
    "no bias here": (
        lambda w: w.add_tensor("blk.1.attn_q.bias", np.zeros(96, np.float32)),
        r"holds blk\.1\.attn_q\.bias \(float32 \[96\]\), which a LlamaForCausalLM",
    ),
    "integers": (
        lambda w: w.add_tensor("blk.0.attn_q.index", np.zeros(4, np.int32)),
        r"holds blk\.0\.attn_q\.index \(I32 \[4\]\), which",
    ),
    "parts in words": (
        lambda w: w.add_string("split.count", "two"),
        r"split\.count is 'two'; expected one whole number",
    ),
    "of something else": (
        lambda w: w.add_tensor("mm.0.weight", np.zeros((4, 4), np.float32)),
        r"holds mm\.0\.weight \(float32 \[4, 4\]\), which a LlamaForCausalLM",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_config_cannot_say_is_refused(kind: str, tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    edit, words = REFUSED[kind]
    write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf", edit=edit)
    with pytest.raises(SpikeconvError, match=words):
        make_plan(GgufSource(tmp_path / "model.gguf"), SpikeConfig())


def test_the_tokenizer_is_the_one_that_transformers_reads(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """Flags, special tokens and chat template, after a way over the converted directory."""
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    edits: dict[str, Callable[[gguf.GGUFWriter], Any]] = {
        "as it is": lambda w: None,
        "bos": lambda w: w.add_add_bos_token(True),
        "no bos": lambda w: w.add_add_bos_token(False),
        "eos": lambda w: w.add_add_eos_token(True),
        "template": lambda w: w.add_chat_template(template),
        "pad": lambda w: w.add_pad_token_id(7),
        "unknown": lambda w: w.add_unk_token_id(9),
        "no special tokens": lambda w: [w.kv_data[0].pop(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos")],
    }
    text = "spikes <s>a</s>"
    for kind, edit in edits.items():
        write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf", edit=edit)
        (tmp_path / kind).mkdir()
        GgufSource(tmp_path / "model.gguf").copy_companions(tmp_path / kind)
        theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
        ours = AutoTokenizer.from_pretrained(tmp_path / kind)
        assert ours(text).input_ids == theirs(text).input_ids, kind
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "chat_template"):
            assert getattr(ours, name) == getattr(theirs, name), (kind, name)


def test_a_file_without_a_tokenizer(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    for key in ("tokens", "model", "merges"):
        write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf", edit=drop(f"tokenizer.ggml.{key}"))
        with pytest.raises(SpikeconvError, match=r"model\.gguf holds no tokenizer that transformers can read") as error:
            GgufSource(tmp_path / "model.gguf")
        assert "\n" not in str(error.value)
