"""What of the vLLM plug-in needs no vLLM: what it fuses, refuses, loads, and the command line of the server."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from spikeconv import SpikeconvError
from spikeconv.config import SpikeConfig
from spikeconv.serving import versions
from spikeconv.serving.layers import check_engine, check_split, fused_linears
from spikeconv.serving.loading import Arrivals, Part


def settings(**values: Any) -> SpikeConfig:
    return SpikeConfig.parse(values)


def test_linears_of_one_input_are_one(tiny_checkpoint: Callable[..., Path], converted: Callable[..., Path]) -> None:
    model = AutoConfig.from_pretrained(tiny_checkpoint("qwen3"))
    config = settings(skip=["o"], overrides=({"pattern": "down", "settings": {"bits": "6-1.58"}},))
    found = fused_linears(config, model, {"model.layers.1.self_attn.k_proj": 0.5})
    places = ("self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")
    assert list(found) == [f"model.layers.{layer}.{place}" for layer in (0, 1) for place in places]
    assert found["model.layers.0.mlp.down_proj"].scheme.bits == "6-1.58"
    assert found["model.layers.1.self_attn.qkv_proj"].zero_share == 0.5
    assert found["model.layers.0.self_attn.qkv_proj"].group == "model.layers.0.qkv"
    for values, said in (
        ({"kv": {"bits": 4}}, "kv_bits=4: vLLM keeps keys and values in a cache of its own"),
        ({"inputs": {"codec": "elastic"}}, "codec=elastic: its neurons run"),
        ({"overrides": ({"pattern": "v", "settings": {"bits": "6-1.58"}},)}, "v_proj converted to 6-1.58"),
        ({"skip": ["gate"]}, r"gate_proj is not converted, .*up_proj converted to 4-1\.58"),
    ):
        with pytest.raises(SpikeconvError, match=said):
            fused_linears(settings(**values), model)
    with pytest.raises(SpikeconvError, match="not BertModel"):
        fused_linears(settings(), AutoConfig.from_pretrained(tiny_checkpoint("bert")))


def test_what_does_not_divide_or_fit_is_named() -> None:
    sizes = {"num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 96, "hidden_size": 48}
    model: Any = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**sizes))
    for ranks in (1, 2, 4, 6, 12):  # from 4 on, ranks share a key head
        check_split(model, ranks)
    for ranks, said in ((3, r"key heads \(2\)"), (5, r"attention heads \(12\)")):
        with pytest.raises(SpikeconvError, match=f"over {ranks} .* {said}; possible here: 1, 2, 4, 6, 12"):
            check_split(model, ranks)
    offload = SimpleNamespace(uva=SimpleNamespace(cpu_offload_gb=0), prefetch=SimpleNamespace(offload_group_size=0))
    engine = SimpleNamespace(offload_config=offload, lora_config=None, quant_config=None)
    check_engine(engine)
    engine.lora_config = object()
    with pytest.raises(SpikeconvError, match="vLLM's --enable-lora does not work on converted linears"):
        check_engine(engine)


def test_members_arrive_whole_at_their_places() -> None:
    """Rank 1 of 2: four rows of q, and, of one key head that both ranks share, all of k."""
    arrivals = Arrivals("qkv", {"q": Part(8, 4, 4, 0), "k": Part(2, 2, 0, 4)})
    weight, shared = torch.zeros(6, 3, dtype=torch.uint8), torch.zeros(1)
    into_weight, into_shared = arrivals.into_rows("weight", 0), arrivals.into_shared("input_threshold")
    q, k = torch.arange(24, dtype=torch.uint8).view(8, 3), torch.full((2, 3), 99, dtype=torch.uint8)
    into_weight(weight, q, "q")
    into_shared(shared, torch.ones(1), "q")
    for call, said in (
        (arrivals.check_whole, "lacks qkv.input_threshold"),
        (lambda: into_weight(weight, k[:1], "k"), r"qkv\.weight is torch\.uint8 \[1, 3\]; expected .* \[2, 3\]"),
        (lambda: into_weight(weight, k.int(), "k"), r"is torch\.int32"),
        (lambda: into_weight(weight, k, "v"), "'v' is no part of it"),
        (lambda: into_shared(shared, torch.zeros(1), "k"), "not the same in all linears"),
    ):
        with pytest.raises(SpikeconvError, match=said):
            call()
    into_weight(weight, k, "k")
    into_shared(shared, torch.ones(1), "k")
    arrivals.check_whole()
    assert torch.equal(weight, torch.cat([q[4:], k])) and shared.item() == 1


def test_the_plugin_is_where_vllm_looks() -> None:
    """And the extra asks for what the plug-in accepts."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    place = project["entry-points"]["vllm.general_plugins"]["spikeconv"]
    module, _, function = place.partition(":")
    assert (Path(__file__).parents[2] / f"{module.replace('.', '/')}.py").is_file() and function == "register"
    assert project["optional-dependencies"]["vllm"] == ["vllm>=0.32,<0.33"]
    assert set(str(versions.SUPPORTED).split(",")) == {">=0.32", "<0.33"}
