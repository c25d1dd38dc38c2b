"""A converted checkpoint is an ordinary transformers model: it loads, runs, saves and reloads, bit for bit."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import FINE
from safetensors.torch import load_file
from tiny_models import TRANSFORMERS
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from spikeconv.config import SpikeConfig
from spikeconv.conversion.linear import convert_linear
from spikeconv.families import FAMILIES
from spikeconv.models.adopt import adopt
from spikeconv.nn import FoldedNorm, SpikeGroup, SpikeLinear, spike_linears
from spikeconv.plain import write_json

Fixture = Callable[..., Any]
BITS = pytest.mark.parametrize("bits", ["4-1.58", "4-1", "8-8", "16-16"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def load(path: Path, **arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **arguments).eval()


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def built_by_hand(source: Path, **settings: Any) -> nn.Module:
    """The float model with its linears replaced one by one, each in a group of its own."""
    model = adopt(load(source, **FAMILIES[json.loads((source / "config.json").read_text())["model_type"]].fixed))
    family = FAMILIES[model.config.model_type]
    config, layout = family.settle(SpikeConfig.parse(settings), model.config), family.layout(model.config)
    schemes = {linear.name: config.for_linear(linear.name, linear.role) for linear in layout}
    folded = {}
    for norm in {linear.norm for linear in layout if linear.norm}:
        behind = {schemes[linear.name] for linear in layout if linear.norm == norm}
        if len(behind) == 1 and None not in behind:  # else someone needs the norm's output
            folded[norm] = FoldedNorm(model.get_submodule(norm).weight, model.config.rms_norm_eps)
            model.set_submodule(norm, folded[norm])
    for linear in layout:
        scheme = schemes[linear.name]
        if scheme is None:
            continue
        old = model.get_submodule(linear.name)
        center = model.get_submodule(linear.center) if linear.center else None
        group = SpikeGroup(old.in_features, scheme, folded.get(linear.norm), center)
        has_bias = old.bias is not None or center is not None
        new = SpikeLinear(old.in_features, old.out_features, scheme, group, bias=has_bias)
        bias = {} if old.bias is None else {"bias": old.bias}
        constant = None if center is None else center.bias.detach()
        new.load_state_dict({**convert_linear(old.weight.detach(), scheme, center=constant).tensors, **bias})
        model.set_submodule(linear.name, new)
    return model


@BITS
def test_equals_a_model_built_by_hand(
    family: str, bits: str, tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture
) -> None:
    logits = logits_of(converted(family, bits=bits))
    assert logits.isfinite().all()
    assert torch.equal(logits, logits_of(built_by_hand(tiny_checkpoint(family), bits=bits)))


def test_skips_and_overrides_reach_the_model(tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture) -> None:
    settings = {
        "skip": ("down", "model.layers.0.self_attn.k_proj"),
        "overrides": ({"pattern": "*.1.self_attn.v_proj", "settings": {"bits": "6-1.58", "seed": 4}},),
    }
    path = converted("qwen2", **settings)
    model = load(path)
    linears = spike_linears(model)
    assert len(linears) == 14 - 2 - 1
    v = linears["model.layers.1.self_attn.v_proj"]
    assert (v.scheme.inputs.virtual_steps, v.scheme.rotation.seed, v.scheme.weights.bits) == (32, 4, 6)
    assert v.encoder is not linears["model.layers.1.self_attn.q_proj"].encoder
    assert torch.equal(logits_of(model), logits_of(built_by_hand(tiny_checkpoint("qwen2"), **settings)))


def test_one_encode_for_each_group(converted: Fixture, logits_of: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    products, calls = SpikeGroup.products, []
    monkeypatch.setattr(SpikeGroup, "products", lambda self, *args: calls.append(self) or products(self, *args))
    logits_of(converted("llama"))
    assert len(calls) == 2 * 4 == len({id(group) for group in calls})  # qkv, o, gate and up, down


@pytest.mark.parametrize("rotation", ["gamma-sqp", "none"])
def test_without_rounding_it_is_the_float_model(
    family: str, rotation: str, tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture
) -> None:
    logits = logits_of(converted(family, bits="16-16", rotation=rotation))
    torch.testing.assert_close(logits, logits_of(tiny_checkpoint(family)), rtol=0, atol=1e-4)


def test_quarot_without_rounding_is_the_float_model(
    transformer: str, tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture
) -> None:
    logits = logits_of(converted(transformer, bits="16-16", rotation="quarot"))
    torch.testing.assert_close(logits, logits_of(tiny_checkpoint(transformer)), rtol=0, atol=1e-4)


def test_quarot_folds_the_norm_for_skipped_linears_too(
    tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture
) -> None:
    path = converted("qwen3", bits="16-16", rotation="quarot", skip=("k", "gate", "*.1.mlp.*"))
    torch.testing.assert_close(logits_of(path), logits_of(tiny_checkpoint("qwen3")), rtol=0, atol=1e-4)
    norms = {name: t for name, t in load(path).state_dict().items() if "layernorm" in name}
    folded = {name for name, t in norms.items() if (t == 1).all()}
    assert folded == norms.keys() - {"model.layers.1.post_attention_layernorm.weight"}


@BITS
def test_save_and_reload_is_bit_equal(
    family: str, bits: str, converted: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    first = load(converted(family, bits=bits))
    expected = logits_of(first)
    first.save_pretrained(tmp_path / "1")
    second = load(tmp_path / "1")
    second.save_pretrained(tmp_path / "2")
    third = load(tmp_path / "2")
    assert same_state(first, second) and same_state(first, third)
    assert torch.equal(logits_of(second), expected) and torch.equal(logits_of(third), expected)
    configs = [json.loads((tmp_path / d / "config.json").read_text()) for d in "12"]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    written = json.loads((converted(family, bits=bits) / "config.json").read_text())["quantization_config"]
    assert written.items() <= configs[0]["quantization_config"].items()


@DTYPES
@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "16-16"])
def test_compute_dtypes(dtype: torch.dtype, bits: str, converted: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    path = converted("qwen2", bits=bits)
    exact, model = load(path), load(path, dtype=dtype)
    for name, linear in spike_linears(model).items():
        reference = exact.get_submodule(name)
        assert linear.bias is None or linear.bias.dtype == dtype
        if bits == "16-16":
            assert linear.weight.dtype == dtype
            continue
        assert torch.equal(linear.weight, reference.weight)
        assert linear.weight_scale.dtype == torch.float32
        assert torch.equal(linear.weight_scale, reference.weight_scale)
    logits = logits_of(model)
    assert logits.dtype == dtype and logits.isfinite().all()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(tmp_path, dtype=dtype), logits)
    assert same_state(load(tmp_path, dtype="auto"), model)


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_maps(device_map: str, converted: Fixture, logits_of: Fixture) -> None:
    path = converted("llama")
    logits = logits_of(path, device_map=device_map).cpu()
    torch.testing.assert_close(logits, logits_of(path), rtol=0, atol=0 if device_map == "cpu" else 1e-2)


def test_tied_embeddings_stay_tied(converted: Fixture) -> None:
    model = load(converted("llama"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(converted("llama") / "model.safetensors")


def test_no_float_copy_of_converted_weights(converted: Fixture) -> None:
    model = load(converted("llama"))
    for linear in spike_linears(model).values():
        assert [name for name, _ in linear.named_parameters()] == []
        assert {name: b.dtype for name, b in linear.named_buffers()} == {
            "weight": torch.uint8,
            "weight_scale": torch.float32,
        }


def test_converts_the_same_under_another_architecture_name(
    tiny_checkpoint: Fixture, run_convert: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    """A LLaMA is a Qwen2 with zero biases: packed weights equal, logits within 1e-5."""
    source = tiny_checkpoint("llama")
    llama = load(source)
    fields = llama.config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "rms_norm_eps", "rope_parameters", "tie_word_embeddings")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    qwen = Qwen2ForCausalLM(Qwen2Config(**{name: fields[name] for name in names}))
    missing, unexpected = qwen.load_state_dict(llama.state_dict(), strict=False)
    assert not unexpected and len(missing) == 6 and all(name.endswith("_proj.bias") for name in missing)
    for name in missing:
        nn.init.zeros_(qwen.get_parameter(name))
    qwen.save_pretrained(tmp_path / "qwen")
    run_convert(source, tmp_path / "a")
    run_convert(tmp_path / "qwen", tmp_path / "b")
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert set(theirs) - set(ours) == set(missing)
    torch.testing.assert_close(logits_of(tmp_path / "b"), logits_of(tmp_path / "a"), rtol=0, atol=1e-5)


def test_generates_text(family: str, converted: Fixture) -> None:
    path = converted(family, **FINE)
    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    inputs = tokenizer("Spikes and counts", return_tensors="pt")
    assert tokenizer.decode(inputs["input_ids"][0]) == "Spikes and counts"
    ids = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 5
    with torch.no_grad():  # greedy text without a cache is the same text
        again = inputs["input_ids"]
        for _ in range(5):
            logits = model(again, use_cache=False).logits[:, -1]
            logits[:, model.config.eos_token_id] = -torch.inf
            again = torch.cat([again, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(ids, again)


@pytest.mark.parametrize("execution", ["events", "unfold"])
@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
def test_executions_give_the_same_logits(
    execution: str, bits: str, converted: Fixture, logits_of: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = logits_of(converted("mistral", bits=bits))
    monkeypatch.setenv("SPIKECONV_EXEC", execution)
    assert torch.equal(logits_of(converted("mistral", bits=bits)), dense)


@pytest.mark.parametrize("settings", [{}, {"kv_bits": 4}], ids=str)
def test_copies_of_a_fresh_model(settings: dict[str, Any], family: str, converted: Fixture, logits_of: Fixture) -> None:
    """Before its first forward, when the guard's hooks are still there, and after."""
    model = load(converted(family, **({} if family not in TRANSFORMERS else settings)))
    pickled = pickle.dumps(model)
    assert len(pickled) < 4 * sum(x.nbytes for x in model.state_dict().values()) + 1_000_000
    copies = [copy.deepcopy(model), pickle.loads(pickled)]
    expected = logits_of(model)
    copies += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    assert all(torch.equal(logits_of(other), expected) for other in copies)
    assert not any(linear._forward_hooks for other in copies for linear in spike_linears(other).values())


def test_compiled_model_gives_the_same(converted: Fixture, tokens: Tensor) -> None:
    """Back end `aot_eager`: graphs, fake tensors and functionalisation, without a C++ compiler."""
    model = load(converted("llama"))
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=False)
        logits = compiled(tokens, use_cache=False).logits
        torch.testing.assert_close(logits, model(tokens, use_cache=False).logits, rtol=0, atol=1e-5)
    torch.compiler.reset()


def test_newer_format_is_refused(converted: Fixture, tmp_path: Path) -> None:
    shutil.copytree(converted("llama"), tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["quantization_config"]["format"] = 99
    write_json(tmp_path / "model/config.json", config)
    with pytest.raises(Exception, match=r"format 99.*upgrade"):
        load(tmp_path / "model")


FIRST = """
import sys, spikeconv
print(sorted({"torch", "transformers"} & set(sys.modules)))  # importing us stays cheap
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
print(AUTO_QUANTIZER_MAPPING["spikeconv"].__name__)
"""
LAST = """
import sys
from transformers import AutoModelForCausalLM
for path in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(path)
    except Exception as error:
        print("refused")
    else:
        print("loaded")
print(any(name.startswith("spikeconv") for name in sys.modules))
import spikeconv
for path in sys.argv[1:]:
    print(type(AutoModelForCausalLM.from_pretrained(path).model.layers[0].mlp.up_proj).__name__)
"""


BITS_APART = ("4-1.58", "4-1", "8-8", "16-16")


@pytest.fixture(scope="module", autouse=True)
def interpreters(converted: Fixture) -> dict[str, subprocess.Popen[str]]:
    """New interpreters take seconds to import torch: both start first and run beside the other tests."""
    paths = [str(converted("llama", bits=bits)) for bits in BITS_APART]
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return {script: subprocess.Popen([sys.executable, "-c", script, *paths], **pipes) for script in (FIRST, LAST)}


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.split("\n")[:-1]


def test_imported_before_transformers(interpreters: dict[str, subprocess.Popen[str]]) -> None:
    assert lines_of(interpreters[FIRST]) == ["[]", "SpikeQuantizer"]


def test_without_spikeconv_loading_fails_loudly_and_with_it_succeeds(
    interpreters: dict[str, subprocess.Popen[str]],
) -> None:
    lines = lines_of(interpreters[LAST])
    count = len(BITS_APART)
    assert lines == ["refused"] * count + ["False"] + ["SpikeLinear"] * count
