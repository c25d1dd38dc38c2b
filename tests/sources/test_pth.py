"""A `.pth` file of the RWKV authors is the model it was made from, whatever they call its tensors."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rwkv_files import authors_tensors, make_model, write_pth
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.models.tokenizers import RwkvWorldTokenizer, byte_tokenizer, register_tokenizers
from spikeconv.sources import pth_tokenizer
from spikeconv.sources.hf import HfSource
from spikeconv.sources.pth import PthSource
from spikeconv.sources.resolve import open_source, resolve_source
from spikeconv.verification.run import verify
from spikeconv.wheels import Wheel

SUPPORTED = "supported: RWKV-4, RWKV-6, RWKV-7"
# The attention is not as wide as the model, so that no shape fits in the place of another one.
SIZES = {"hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 80, "attention_hidden_size": 64}
VOCABULARY = "".join(f"{i + 1} {bytes([i])!r} 1\n" for i in range(256)) + "261 '\\n\\n' 2\n"


@pytest.fixture(params=["4", "6", "7"])
def version(request: pytest.FixtureRequest) -> str:
    if request.param == "7":
        pytest.importorskip("rwkv7_hf")
    return str(request.param)


def save(path: Path, edit: Callable[[dict[str, Tensor]], Any], version: str = "6") -> Path:
    tensors = authors_tensors(make_model(version, **SIZES, vocab_size=256), version)
    edit(tensors)
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_the_originals(version: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_model(version, **SIZES)
    opened = PthSource(write_pth(tmp_path / "model.pth", model, version, dtype))
    originals = model.state_dict()
    assert set(opened.names()) == set(originals)
    for name, tensor in originals.items():
        loaded = opened.load(name)
        assert opened.shape(name) == tuple(loaded.shape) == tuple(tensor.shape), name
        assert opened.dtype(name) == loaded.dtype == dtype
        assert torch.equal(loaded, tensor.to(dtype)), name
        assert loaded.is_contiguous() and loaded.untyped_storage().nbytes() == loaded.nbytes
    save_file({name: opened.load(name) for name in opened.names()}, tmp_path / "model.safetensors")  # refuses views
    assert opened.weight_files() == [tmp_path / "model.pth"]
    assert opened.size() == (tmp_path / "model.pth").stat().st_size


def test_config_is_that_of_the_model(version: str, tmp_path: Path) -> None:
    model = make_model(version, **SIZES)
    opened = PthSource(write_pth(tmp_path / "model.pth", model, version, torch.bfloat16))
    assert opened.config["dtype"] == "bfloat16"
    assert opened.config["architectures"] == [type(model).__name__]
    # Of the others the file says nothing, and a ratio is told by the two sizes.
    others = {"architectures", "bos_token_id", "pad_token_id", "auto_map", "dtype", "hidden_ratio"}
    read, made = type(model.config).from_dict(opened.config).to_dict(), model.config.to_dict()
    assert {k: v for k, v in read.items() if k not in others} == {k: v for k, v in made.items() if k not in others}


def test_singleton_axes_do_not_matter(tmp_path: Path) -> None:
    def squeeze(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if "time_maa_k" in name:
                tensors[name] = tensor.flatten()
            elif name.endswith("time_decay"):
                tensors[name] = tensor.view(2, 32)

    opened = PthSource(save(tmp_path / "model.pth", squeeze))
    assert opened.shape("rwkv.blocks.2.attention.time_decay") == (1, 1, 64)
    assert opened.shape("rwkv.blocks.0.feed_forward.time_maa_k") == (1, 1, 96)
    make_plan(opened, SpikeConfig())  # compares every shape with the model's


def test_seven_with_the_tensors_that_no_model_reads(tmp_path: Path) -> None:
    pytest.importorskip("rwkv7_hf")
    path = save(tmp_path / "model.pth", lambda t: t.update({f"blocks.0.att.v{i}": torch.ones(2) for i in "012"}), "7")
    plan = make_plan(PthSource(path), SpikeConfig())
    assert plan.ignored.keys() == {f"blocks.0.att.v{i}" for i in "012"} and all(plan.ignored.values())


def test_seven_without_the_tensors_that_no_model_reads(tmp_path: Path) -> None:
    pytest.importorskip("rwkv7_hf")
    path = save(tmp_path / "model.pth", lambda t: [t.pop(f"blocks.0.att.v{i}") for i in "012"], "7")
    assert not any("layers.0.attn.v_lora" in name for name in PthSource(path).names())


def test_files_of_old_torch_and_of_modules(tmp_path: Path) -> None:
    model = make_model("4", **SIZES)
    tensors = {name: torch.nn.Parameter(tensor) for name, tensor in authors_tensors(model, "4").items()}
    torch.save(tensors, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    opened = PthSource(tmp_path / "model.pth")
    assert torch.equal(opened.load("head.weight"), model.head.weight) and not opened.load("head.weight").requires_grad


def test_converts_to_the_same_model(version: str, tmp_path: Path) -> None:
    model = make_model(version, **SIZES)
    model.save_pretrained(tmp_path / "hf")
    opened = open_source(write_pth(tmp_path / "model.pth", model, version))
    for source, name in ((opened, "pth"), (HfSource(tmp_path / "hf"), "plain")):
        convert(source, make_plan(source, SpikeConfig()), tmp_path / name)
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("pth", "plain"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.endswith(".bias"):  # products of matrix and vector, whose last bit depends on the address
            torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(ours[name], tensor), name
    assert AutoTokenizer.from_pretrained(tmp_path / "pth")("é").input_ids == [195, 169]
    result = verify(load_checkpoint(tmp_path / "pth"), "spikes", tokens=4)
    assert result.clean and result.source_reader == "spikeconv" and "model.pth" in result.notes[0], result
    assert AutoConfig.from_pretrained(tmp_path / "pth").model_type == model.config.model_type


class Code:
    """Runs when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return Code.run, ()

    @classmethod
    def run(cls) -> dict[str, Any]:
        cls.ran = True
        return {}


@pytest.mark.parametrize("write", ["zip", "old", "plain pickle"])
def test_code_is_not_run(write: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    content = {"emb.weight": torch.ones(2, 2), "evil": Code()}
    if write == "plain pickle":
        path.write_bytes(pickle.dumps({"evil": Code()}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=write == "zip")
    with pytest.raises(SpikeconvError, match=r"model\.pth contains more than tensors .* and was not loaded\.$"):
        PthSource(path)
    assert not Code.ran
    assert pickle.loads(pickle.dumps(Code())) == {} and Code.ran  # it would have been
    Code.ran = False


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(part: float, old: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(authors_tensors(make_model("4", **SIZES), "4"), path, _use_new_zipfile_serialization=not old)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(SpikeconvError, match=r"model\.pth is not a readable torch file \(truncated or") as error:
        PthSource(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"not torch at all" * 9, b"PK\x03\x04" + b"\xff" * 64, b"\x80\x04\x95" + b"\0" * 9]
)
def test_not_a_torch_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(SpikeconvError, match=r"model\.pth is not a readable torch file"):
        PthSource(tmp_path / "model.pth")


STATE = {f"blocks.{i}.att.time_state": torch.ones(2, 4, 4) for i in range(4)}
OTHERS: dict[str, tuple[Any, list[str]]] = {
    "a list": ([torch.ones(2)], ["holds no model", "a list, not a dict"]),
    "a tensor": (torch.ones(2), ["holds no model", "a Tensor, not a dict"]),
    "empty": ({}, ["holds no RWKV model", "it has nothing, but no emb.weight"]),
    "a training checkpoint": ({"model": {"emb.weight": torch.ones(2)}, "step": 3}, ["it has model", "no named tensor"]),
    "numbered": ({0: torch.ones(2)}, ["it has 0", "no named tensor"]),
    "another model": (
        {"model.embed_tokens.weight": torch.ones(2, 2), "lm_head.weight": torch.ones(2, 2)},
        ["it has model.embed_tokens.weight, lm_head.weight, but no emb.weight"],
    ),
    "a tuned state": (STATE, ["blocks.2.att.time_state and 1 more, but no emb.weight"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_contents(kind: str, tmp_path: Path) -> None:
    content, words = OTHERS[kind]
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(SpikeconvError, match=r"model\.pth") as error:
        PthSource(tmp_path / "model.pth")
    assert all(word in str(error.value) for word in words), error.value


def as_version_5(tensors: dict[str, Tensor], decay: tuple[int, ...], gate: bool) -> None:
    for key in [key for key in tensors if "time_maa" in key or "time_decay_w" in key]:
        del tensors[key]
    for i in range(3):
        tensors[f"blocks.{i}.att.time_decay"] = torch.ones(decay)
        tensors[f"blocks.{i}.att.time_mix_k"] = torch.ones(1, 1, 96)
        if not gate:
            del tensors[f"blocks.{i}.att.gate.weight"]


def drop(key: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.pop(key)


def add(key: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({key: tensor})


VARIANTS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any], list[str]]] = {
    "5": ("6", lambda t: as_version_5(t, (2,), False), ["holds RWKV-5;", SUPPORTED]),
    "5.1": ("6", lambda t: as_version_5(t, (2,), True), ["holds RWKV-5.1;", SUPPORTED]),
    "5.2": ("6", lambda t: as_version_5(t, (2, 32), True), ["holds RWKV-5.2;", SUPPORTED]),
    "before 4": (
        "4",
        drop("blocks.0.att.time_mix_k"),
        ["unknown version of RWKV", "blocks.0.att.time_decay", SUPPORTED],
    ),
    "LoRA": ("6", add("blocks.1.att.key.lora_A", torch.ones(2, 2)), ["variant of RWKV-6", "att.key.lora_A", SUPPORTED]),
    "state": ("6", add("blocks.1.att.time_state", torch.ones(2)), ["variant of RWKV-6", "blocks.1.att.time_state"]),
    "DeepEmbed": ("7", add("blocks.0.ffn.s_emb.weight", torch.ones(9, 9)), ["variant of RWKV-7", "ffn.s_emb.weight"]),
    "no size": ("6", drop("blocks.0.att.time_decay_w2"), ["no tensor blocks.0.att.time_decay_w2, which RWKV-6 needs"]),
    "few axes": ("6", add("blocks.0.att.time_maa_w2", torch.ones(9)), ["other shapes than those of RWKV-6"]),
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_other_versions(kind: str, tmp_path: Path) -> None:
    version, edit, words = VARIANTS[kind]
    if version == "7":
        pytest.importorskip("rwkv7_hf")
    with pytest.raises(SpikeconvError, match=r"model\.pth holds") as error:
        PthSource(save(tmp_path / "model.pth", edit, version))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop("blocks.1.att.gate.weight"), "no tensor rwkv.blocks.1.attention.gate.weight"),
        (add("blocks.2.ffn.key.weight", torch.ones(8, 96)), "rwkv.blocks.2.feed_forward.key.weight has shape"),
        (add("blocks.2.ffn.key.weight", torch.ones(80, 96, dtype=torch.int8)), "has dtype int8"),
    ],
)
def test_the_plan_compares_with_the_model(edit: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SpikeconvError, match=words):
        make_plan(PthSource(save(tmp_path / "model.pth", edit)), SpikeConfig())


class NoFetch(Wheel):
    def folder(self) -> Path:
        raise SpikeconvError("Could not fetch rwkv==0.8.32 from the Python package index: offline")


def small(path: Path, vocab_size: int) -> Path:
    sizes = {"hidden_size": 32, "head_size": 32, "num_hidden_layers": 1, "intermediate_size": 8}
    return write_pth(path, make_model("6", **sizes, vocab_size=vocab_size), "6", torch.bfloat16)


@pytest.mark.parametrize(
    ("vocab_size", "wanted"), [(50277, "20B_tokenizer.json"), (4096, r"tokenizer\.json or rwkv_vocab")]
)
def test_tokenizer_is_missing(vocab_size: int, wanted: str, tmp_path: Path) -> None:
    path = small(tmp_path / "model.pth", vocab_size)
    with pytest.raises(SpikeconvError, match=rf"tokenizer of {vocab_size} tokens is missing: put .*{wanted}.* beside"):
        PthSource(path)


def test_world_vocabulary_is_that_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "model.pth", 65536)
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch, pytest.raises(SpikeconvError, match="Could not fetch rwkv"):
        patch.setattr(pth_tokenizer, "RWKV", NoFetch("rwkv", "0.8.32", "", ""))
        PthSource(path)
    folder = tmp_path / "cache" / "rwkv-0.8.32" / "rwkv"
    folder.mkdir(parents=True)
    monkeypatch.setattr(Wheel, "is_cached", lambda self: self.version == "0.8.32")
    (folder / "rwkv_vocab_v20230424.txt").write_text(VOCABULARY)
    source = PthSource(path)
    shutil.rmtree(folder)
    register_tokenizers()
    source.copy_companions(tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(loaded) is RwkvWorldTokenizer and loaded("a\n\n").input_ids == source.tokenizer()("a\n\n").input_ids


def test_tokenizers_beside_the_file(tmp_path: Path) -> None:
    world, other = small(tmp_path / "world.pth", 65536), small(tmp_path / "other.pth", 300)
    (tmp_path / "rwkv_vocab_v20230424.txt").write_text(VOCABULARY)
    assert type(PthSource(world).tokenizer()) is type(PthSource(other).tokenizer()) is RwkvWorldTokenizer
    words = Tokenizer(models.WordLevel({"<|end|>": 0, "a": 1}, unk_token="a"))
    words.add_special_tokens(["<|end|>"])
    words.save(str(tmp_path / "20B_tokenizer.json"))
    assert type(PthSource(world).tokenizer()) is RwkvWorldTokenizer
    found = PthSource(other).tokenizer()
    assert found("a<|end|>").input_ids == [1, 0] and found.eos_token_id == found.pad_token_id == 0
    byte_tokenizer().save_pretrained(tmp_path)  # its id 0 is a special token too
    assert PthSource(other).tokenizer()("é").input_ids == [195, 169]
    Tokenizer(models.WordLevel({"b": 0, "a": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    assert PthSource(other).tokenizer().eos_token is None


def test_bad_tokenizer_beside_the_file(tmp_path: Path) -> None:
    path = small(tmp_path / "model.pth", 300)
    Tokenizer(models.WordLevel({str(i): i for i in range(301)}, unk_token="0")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SpikeconvError, match=r"tokenizer\.json has 301 tokens, but the model in .* has 300"):
        PthSource(path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SpikeconvError, match=r"tokenizer\.json is not a readable tokenizer"):
        PthSource(path)


def test_sources_are_opened_by_their_suffix(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "model.pth", make_model("4", **SIZES), "4")
    assert resolve_source(str(path)) == path and isinstance(open_source(path), PthSource)
    with pytest.raises(SpikeconvError, match=r"models/missing\.pth is no directory, GGUF or \.pth file, and no preset"):
        resolve_source("models/missing.pth")
    with pytest.raises(SpikeconvError, match=r"model\.bin is not a directory, a \.gguf or a \.pth file"):
        open_source(path.rename(tmp_path / "model.bin"))
