"""What is not exactly a converted checkpoint does not load, whatever `from_pretrained` is told to overlook."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TRANSFORMERS
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from spikeconv.errors import SpikeconvError
from spikeconv.nn import spike_linears

Fixture = Callable[..., Any]
Tensors = dict[str, Tensor]
Q = "model.layers.0.self_attn.q_proj"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def changed(converted: Fixture, tmp_path: Path) -> Fixture:
    """`changed(change, family, config={…}, **settings)`: a copy of a checkpoint whose tensors `change` was given."""
    count = iter(range(1000))

    def copy(
        change: Callable[[Tensors], Any], family: str = "llama", config: dict[str, Any] | None = None, **settings: Any
    ) -> Path:
        target = tmp_path / str(next(count))
        shutil.copytree(converted(family, **settings), target)
        tensors = load_file(target / "model.safetensors")
        change(tensors)
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        if config:
            fields = json.loads((target / "config.json").read_text())
            (target / "config.json").write_text(json.dumps({**fields, **config}))
        return target

    return copy


def refused(path: Path, *words: str, **options: Any) -> None:
    for overlooked in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(SpikeconvError) as error:
            AutoModelForCausalLM.from_pretrained(path, **overlooked, **options)
        assert all(word in str(error.value) for word in words), error.value


def test_every_missing_tensor_is_named(converted: Fixture, changed: Fixture) -> None:
    """One at a time: packed weights, scales, sums, norms, biases and embeddings."""
    names = load_file(converted("qwen2", kv_bits=4, bits="4-1") / "model.safetensors")
    kinds = [n for n in names if "layers.1." not in n]
    assert {n.rpartition(".")[2] for n in kinds} == {"weight", "weight_scale", "weight_sum", "bias"}
    for name in kinds:
        refused(changed(lambda tensors, name=name: tensors.pop(name), "qwen2", kv_bits=4, bits="4-1"), "lacks", name)


def test_families_miss_their_own_tensors(family: str, converted: Fixture, changed: Fixture) -> None:
    names = list(load_file(converted(family) / "model.safetensors"))
    for name in (names[0], names[-1], names[len(names) // 2]):
        refused(changed(lambda tensors, name=name: tensors.pop(name), family), name)


def test_what_does_not_belong_is_named(changed: Fixture) -> None:
    def extra(name: str, like: str) -> Callable[[Tensors], Any]:
        return lambda tensors: tensors.update({name: tensors[like].clone()})

    for name, like in (
        ("model.layers.2.input_layernorm.weight", NORM),  # a layer too many
        (f"{Q}.weight_sum", f"{Q}.weight_scale"),  # of another number of steps
        (f"{Q}.bias", f"{Q}.weight_scale"),
        (f"{Q}.wieght", f"{Q}.weight"),
    ):
        refused(changed(extra(name, like)), name)
    refused(changed(lambda tensors: None, config={"num_hidden_layers": 1}), "model.layers.1.", "1 layers")
    refused(changed(lambda tensors: None, config={"num_hidden_layers": 3}), "lacks", "model.layers.2.")


def test_other_shapes_and_types_are_named(changed: Fixture) -> None:
    cases: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        (f"{Q}.weight", lambda t: t[:-1].contiguous()),
        (f"{Q}.weight_scale", lambda t: t[:-1].contiguous()),
        (f"{Q}.weight_scale", lambda t: t[:, None].contiguous()),
        (NORM, lambda t: t[:-1].contiguous()),
        ("model.embed_tokens.weight", lambda t: t[:-1].contiguous()),
        (f"{Q}.weight", lambda t: t.view(torch.int8)),
        (f"{Q}.weight", lambda t: t.float()),
        (f"{Q}.weight_scale", lambda t: t.bfloat16()),
        (NORM, lambda t: (t * 100).int()),
    ]
    for name, change in cases:
        refused(changed(lambda tensors, n=name, c=change: tensors.update({n: c(tensors[n])})), name, "expected")


def test_values_that_are_not_finite_are_named(changed: Fixture) -> None:
    for name, value in ((f"{Q}.weight_scale", torch.nan), (NORM, torch.inf), ("model.embed_tokens.weight", torch.nan)):

        def spoil(tensors: Tensors, name: str = name, value: float = value) -> None:
            tensors[name].view(-1)[3] = value

        refused(changed(spoil), name, "not finite")


def test_row_sums_that_no_weights_have_are_named(changed: Fixture) -> None:
    """The zero point multiplies them: beyond the largest sum the product could leave int32."""
    name = f"{Q}.weight_sum"
    for value in (2**31 - 1, -(2**31)):

        def spoil(tensors: Tensors, value: int = value) -> None:
            tensors[name][1] = value

        refused(changed(spoil, bits="4-1"), name, "no row")


def test_a_tensor_in_two_files_is_refused(converted: Fixture, tmp_path: Path) -> None:
    source = converted("llama")
    shutil.copytree(source, tmp_path / "two")
    tensors = load_file(source / "model.safetensors")
    (tmp_path / "two/model.safetensors").unlink()
    index = {}
    for file, names in (("a.safetensors", list(tensors)), ("b.safetensors", [NORM])):
        save_file({name: tensors[name] for name in names}, tmp_path / "two" / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (tmp_path / "two/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    refused(tmp_path / "two", NORM, "a.safetensors", "b.safetensors")


def test_a_damaged_file_is_refused(converted: Fixture, tmp_path: Path) -> None:
    shutil.copytree(converted("llama"), tmp_path / "cut")
    whole = (tmp_path / "cut/model.safetensors").read_bytes()
    (tmp_path / "cut/model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut", "model.safetensors cannot be read", dtype=torch.float32)


def test_a_state_dict_that_lacks_a_tensor_is_refused(converted: Fixture) -> None:
    path = converted("llama")
    tensors, config = load_file(path / "model.safetensors"), AutoConfig.from_pretrained(path)
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    model_class.from_pretrained(None, config=config, state_dict=dict(tensors))
    del tensors[f"{Q}.weight_scale"]
    with pytest.raises(SpikeconvError, match=rf"{Q}.weight_scale is missing"):
        model_class.from_pretrained(None, config=config, state_dict=tensors)


@pytest.mark.parametrize("share", [{"model.layers.9.mlp.up_proj": 0.5}, {Q: "half"}, {Q: 2}])
def test_shares_of_zeros_that_cannot_be_are_refused(share: dict[str, Any], changed: Fixture) -> None:
    path = changed(lambda tensors: None)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["zero_share"] = share
    (path / "config.json").write_text(json.dumps(config))
    refused(path, "zero_share", next(iter(share)))


def test_settings_that_nobody_knows_are_refused(changed: Fixture) -> None:
    """Dropped, they would let a checkpoint of a newer spikeconv run as something else."""

    def spoil(**fields: Any) -> Path:
        path = changed(lambda tensors: None)
        config = json.loads((path / "config.json").read_text())
        config["quantization_config"].update(fields)
        (path / "config.json").write_text(json.dumps(config))
        return path

    refused(spoil(salience=3), "salience")
    refused(spoil(inputs={"codec": "count", "bits": 5, "momentum": 1}), "momentum")
    refused(spoil(weights={"bits": "many"}), "weights", "many")
    refused(spoil(rotation={"kind": "sideways"}), "rotation", "sideways")
    refused(spoil(zero_share=[0.5]), "zero_share")
    for version in (1, 3, "2", None, True):
        refused(spoil(format=version), "format", repr(version))


def test_a_tied_pair_is_stored_under_either_name(converted: Fixture, changed: Fixture, logits_of: Fixture) -> None:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    only_head = changed(lambda tensors: tensors.update({head: tensors.pop(embedding)}))
    both = changed(lambda tensors: tensors.update({head: tensors[embedding].clone()}))
    expected = logits_of(converted("llama"))
    assert torch.equal(logits_of(only_head), expected) and torch.equal(logits_of(both), expected)
    refused(changed(lambda tensors: tensors.pop(embedding)), "lacks")


def test_the_model_without_its_head(family: str, converted: Fixture, tokens: Tensor, tmp_path: Path) -> None:
    """It loads, gives what the whole model's base gives, and is saved and loaded again, by itself and with a head."""
    path = converted(family, **({} if family not in TRANSFORMERS else {"kv_bits": 4}))
    whole, base = AutoModelForCausalLM.from_pretrained(path), AutoModel.from_pretrained(path)
    assert len(spike_linears(base)) == len(spike_linears(whole)) > 0
    with torch.no_grad():
        expected = whole.base_model(tokens).last_hidden_state
        assert torch.equal(base(tokens).last_hidden_state, expected)
    base.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(tokens).last_hidden_state, expected)
    if not getattr(whole.config, "tie_word_embeddings", False):
        refused(tmp_path, "lacks", "head.weight")


def test_a_head_for_another_task_is_initialised(converted: Fixture, tokens: Tensor) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(converted("llama"), num_labels=3, pad_token_id=0)
    assert len(spike_linears(model)) == 14 and model(tokens[:1]).logits.isfinite().all()


def test_what_people_do_with_a_model(converted: Fixture, tokens: Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted("qwen2")).eval()
    kept = {name: linear.weight_scale.clone() for name, linear in spike_linears(model).items()}
    assert model.num_parameters() > 0
    half = model.to(torch.float16)
    assert all(torch.equal(linear.weight_scale, kept[name]) for name, linear in spike_linears(half).items())
    with torch.no_grad():
        assert half(tokens).logits.dtype == torch.float16
    half.save_pretrained(tmp_path)
    again, saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict(), half.state_dict()
    assert again.keys() == saved.keys()
    assert all(torch.equal(tensor, again[name]) and tensor.dtype == again[name].dtype for name, tensor in saved.items())
