"""The channels that get more bits are those of the score that SpikeLLM computes, in the basis that is rounded."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TRANSFORMERS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spikeconv.calibrate.scores import select
from spikeconv.calibrate.windows import Calibration
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_converted
from spikeconv.nn import attention_codes, spike_linears
from spikeconv.rotation import Rotation
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.verification.run import verify_model

Fixture = Callable[..., Any]

TEXT = Calibration(calibration_tokens=512)


def test_selection_is_that_of_the_public_code() -> None:
    for size, share in ((40, 0.9), (576, 0.95), (1536, 0.9), (7, 0.5)):
        scores = torch.randn(size)
        threshold = scores.sort().values[int(share * size) - 1]
        assert torch.equal(select(scores, share).bool(), ~(scores <= threshold))
    assert select(torch.randn(4), 0.1).all()  # there is no channel that could be left out


def test_scores_are_those_of_the_rotated_model(family: str, tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """As a converted model that rounds nothing sees its inputs and holds its weights."""
    source = HfSource(tiny_checkpoint(family))
    kinds = ["none", "gamma-sqp", *([] if family not in TRANSFORMERS else ["quarot"])]
    for rotation in kinds:
        settings = {"codec": "gif", "bits": "4-4", "rotation": rotation, "low_share": 0.6}
        if rotation == "none" and family == "llama":
            settings["balance"] = "sqrt"
        plan = plan_conversion(source, SpikeConfig.parse(settings), calibration=TEXT)
        assert plan.salient is not None
        float_settings = {"bits": "16-16", "rotation": rotation, "balance": settings.get("balance", "none")}
        float_plan = replace(make_plan(source, SpikeConfig.parse(float_settings)), diagonals=plan.diagonals)
        convert(source, float_plan, tmp_path / rotation, dtype=torch.float32)
        model = load_converted(tmp_path / rotation, device="cpu", dtype="float32")
        linears, scores, hooks = spike_linears(model), {}, []

        def see(name: str, linear: Any, x: Any, scores: Any = scores) -> None:
            u = linear.encoder(x).decode().flatten(0, -2).double()
            weight = linear.float_weight().double()
            scores[name] = (u * (u @ weight.mT @ weight)).mean(0)

        for name, linear in linears.items():
            hooks.append(linear.register_forward_hook(lambda m, args, y, name=name: see(name, m, args[0])))
        with torch.no_grad():
            model(plan.calibration.windows, use_cache=False)
        groups: dict[str, torch.Tensor] = {}
        for job in plan.jobs:
            groups[job.linear.group] = groups.get(job.linear.group, 0) + scores[job.linear.name]
        for job in plan.jobs:
            score, chosen = groups[job.linear.group], plan.salient[job.linear.name].bool()
            assert chosen.sum() == len(score) - int(0.6 * len(score))
            slack = 1e-3 * score.abs().max()
            assert score[chosen].min() >= score[~chosen].max() - slack


def test_a_checkpoint_holds_its_channels(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    config = SpikeConfig.parse({"codec": "gif", "bits": "4-4", "salient_bits": 2, "weights": "gptq"})
    plan = plan_conversion(source, config, calibration=TEXT)
    convert(source, plan, tmp_path / "out")
    model = load_converted(tmp_path / "out", device="cpu")
    for name, linear in spike_linears(model).items():
        assert torch.equal(linear.input_salient, plan.salient[name])
        assert linear.weight_sum.shape == (2, linear.out_features)
    assert verify_model(model, torch.arange(1, 9)[None], tmp_path / "out").clean


def test_channels_that_are_neither_nor_are_refused(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    settings = {"codec": "gif", "kv_bits": 4, "kv_range": "asymmetric", "kv_low_share": 0.5}
    convert(source, plan_conversion(source, SpikeConfig.parse(settings), calibration=TEXT), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    for kind in ("input_salient", "output_salient"):
        name = f"model.layers.1.self_attn.v_proj.{kind}"
        save_file({**tensors, name: tensors[name] + 1}, file, {"format": "pt"})
        with pytest.raises(SpikeconvError, match=f"{kind} holds 2"):
            load_converted(tmp_path / "out", device="cpu")


def test_what_is_missing_is_said(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    config = SpikeConfig.parse({"codec": "gif"})
    with pytest.raises(SpikeconvError, match="Salient channels"):
        convert(source, make_plan(source, config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_salient_keys_and_values_are_those_of_the_attention_weights(
    transformer: str, tiny_checkpoint: Fixture, tmp_path: Path
) -> None:
    """By the products as the public code writes them, with eager attention."""
    source = HfSource(tiny_checkpoint(transformer))
    config = SpikeConfig.parse({"kv_bits": 4, "kv_range": "asymmetric", "kv_low_share": 0.6})
    plan = plan_conversion(source, config, calibration=TEXT)
    assert plan.salient_outputs is not None and not plan.salient
    model = load_float(source).model
    plain = importlib.import_module(type(model).__module__).eager_attention_forward
    seen: dict[str, Any] = {}

    def eager(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        output, weights = plain(module, query, key, value, mask, **options)
        seen[module.layer_idx] = query, key, value, weights
        return output, weights

    ALL_ATTENTION_FUNCTIONS.register("eager-seen", eager)
    ALL_MASK_ATTENTION_FUNCTIONS.register("eager-seen", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    model.set_attn_implementation("eager-seen")
    with torch.no_grad():
        model(plan.calibration.windows, use_cache=False)
    for linear in plan.layout:
        if linear.role not in ("k", "v"):
            continue
        query, key, value, weights = (each.double() for each in seen[linear.layer])
        rotation = Rotation(key.shape[-1], config.rotation.seed)
        query, key, value = (rotation(each.float()).double() for each in (query, key, value))
        scores = torch.zeros(key.shape[1], key.shape[-1], dtype=torch.float64)
        for head in range(query.shape[1]):
            kept = head * key.shape[1] // query.shape[1]
            left, right = (query[:, head], key[:, kept]) if linear.role == "k" else (weights[:, head], value[:, kept])
            if linear.role == "k":  # k ⊙ (Q^T Q k)
                scores[kept] += (right * (right @ (left.mT @ left).mT)).mean(1).sum(0)
            else:  # v ⊙ (P^T P v)
                scores[kept] += (right * (left.mT @ left @ right)).mean(1).sum(0)
        score, chosen = scores.flatten(), plan.salient_outputs[linear.name].bool()
        assert chosen.sum() == len(score) - int(0.6 * len(score))
        assert score[chosen].min() >= score[~chosen].max() - 1e-3 * score.abs().max()


def test_a_cache_with_salient_channels(transformer: str, tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """Decoding token by token gives the logits of the whole text, and what rows hold is the formula's."""
    source = HfSource(tiny_checkpoint(transformer))
    settings = {"bits": "8-8", "rotation": "none", "kv_bits": 4, "kv_range": "asymmetric", "kv_low_share": 0.7}
    plan = plan_conversion(source, SpikeConfig.parse(settings), calibration=TEXT)
    convert(source, plan, tmp_path / "out", dtype=torch.float32)
    model = load_converted(tmp_path / "out", device="cpu")
    ids = torch.arange(1, 17)[None]
    assert verify_model(model, ids, tmp_path / "out").clean
    with torch.no_grad():
        whole, cache = model(ids, use_cache=False).logits, None
        steps = []
        for token in ids[0]:
            output = model(token[None, None], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=2e-5 * float(whole.abs().max()))
    for code in attention_codes(model).values():
        for kind in ("k", "v"):
            salient = code.holders[kind].output_salient.view(-1, 1, code.head_dim).bool()
            states = torch.randn(2, len(salient), 5, code.head_dim)
            found = code.rotation.inverse(code._floats(code.rows(states, kind)))
            u = code.rotation(states)
            low, high = u.amin(-1, keepdim=True).clamp_max(0), u.amax(-1, keepdim=True).clamp_min(0)
            decoded = []
            for bits in (4, 5):
                scale = (high - low) / (2**bits - 1)
                zero = (-low / scale).round()
                decoded.append(((u / scale).round().add(zero).clamp(0, 2**bits - 1) - zero) * scale)
            wanted = code.rotation.inverse(torch.where(salient, decoded[1], decoded[0]))
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
