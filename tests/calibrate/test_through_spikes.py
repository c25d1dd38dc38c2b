"""What a float model computes while it trains through spikes is what its conversion computes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from spikeconv.calibrate.through_spikes import find_alphas, through_spikes
from spikeconv.calibrate.windows import Calibration
from spikeconv.config import SpikeConfig
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.families import output_of
from spikeconv.nn import run_streams, spike_linears
from spikeconv.record.text import record_text
from spikeconv.sources.hf import HfSource
from spikeconv.verification.run import verify_model

Fixture = Callable[..., Any]

SETTINGS: list[dict[str, Any]] = [
    {"bits": "4-1.58"},
    {"bits": "4-1", "rotation": "none"},
    {"code": "ramp", "bits": "6-1.58", "slots": 24, "count_scale": "rms"},
    {"bits": "1-1.58"},
    {"codec": "elastic", "time_steps": 2},
    {"codec": "elastic", "bits": "4-1.58", "rotation": "gamma-sqp"},
]


CASES: tuple[tuple[str, Any], ...] = (
    ("llama", AutoModelForCausalLM),
    ("bert", AutoModel),
    ("bart", AutoModelForSeq2SeqLM),
    ("rwkv", AutoModelForCausalLM),
)


def inputs(rows: int = 3) -> dict[str, Tensor]:
    ids = torch.randint(256, (rows, 20))
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_every_codec_computes_what_its_conversion_does(tiny_checkpoint: Fixture) -> None:
    for family, auto in CASES:
        source = HfSource(tiny_checkpoint(family))
        given = inputs()
        if family == "rwkv":
            given.pop("attention_mask")
        for settings in SETTINGS:
            if family == "rwkv" and settings.get("time_steps"):
                with pytest.raises(SpikeconvError, match="its state is that of one stream"):
                    make_plan(source, SpikeConfig.parse(settings))
                continue
            plan = plan_conversion(source, SpikeConfig.parse(settings), calibration=Calibration(calibration_tokens=256))
            spiking = convert_in_memory(source, plan, dtype=torch.float32)
            held = {job.linear.name: plan.calibrated(job).tensors() for job in plan.jobs}
            model = auto.from_pretrained(source.path).eval()
            trained = through_spikes(model, plan.config, held)
            for name, linear in trained.items():
                for kind, tensor in held[name].items():
                    assert torch.equal(linear.calibrated()[kind], tensor), (name, kind)
            seen: dict[str, Tensor] = {}
            with torch.no_grad():
                hooks = [
                    m.register_forward_hook(lambda _m, _a, y, n=n, seen=seen: seen.update({n: y}))
                    for n, m in trained.items()
                ]
                output_of(model(**given))
                for hook in hooks:
                    hook.remove()
                first = next(iter(trained))
                y: list[Tensor] = []
                spiking.get_submodule(first).register_forward_hook(lambda _m, _a, out, y=y: y.append(out))
                output_of(spiking(**given))
            expected = seen[next(iter(trained))]
            # Behind the first linear a last bit can be another count.
            assert (y[0] - expected).abs().max() <= 2e-5 * expected.abs().max(), (family, settings)


def test_streams_of_a_network_without_neurons_are_the_network(tiny_checkpoint: Fixture) -> None:
    for family, auto in (("bert", AutoModel), ("llama", AutoModelForCausalLM)):
        model = auto.from_pretrained(tiny_checkpoint(family)).eval()
        given = inputs()
        layers = model.encoder.layer if family == "bert" else model.model.layers
        with torch.no_grad():
            expected = output_of(model(**given))
            rows: list[int] = []
            layers[1].register_forward_pre_hook(
                lambda _m, args, options, rows=rows: rows.append(len((*args, options.get("hidden_states"))[0])),
                with_kwargs=True,
            )
            run_streams(list(layers), 3)
            found = output_of(model(**given))
        assert rows == [9] and found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_alpha_is_found_layer_behind_firing_layer(tiny_checkpoint: Fixture) -> None:
    """α of the second layer's q is k · mean |m| of what the first layer gives when it fires."""
    source = HfSource(tiny_checkpoint("bert"))
    config = make_plan(source, SpikeConfig.parse({"codec": "elastic", "k": 3})).config
    windows = torch.randint(256, (4, 16))
    found, outputs = find_alphas(AutoModel.from_pretrained(source.path).eval(), config, windows)
    assert len(found) == 12 and len(outputs) == 4
    model = AutoModel.from_pretrained(source.path).eval()
    held = {name: {"input_alpha": alpha} for name, alpha in found.items()}
    for name, alpha in outputs.items():
        held[name]["output_alpha"] = alpha
    trained = through_spikes(model, config, held)
    seen: dict[str, Tensor] = {}
    for name in ("encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.query"):
        trained[name].register_forward_pre_hook(lambda _m, a, n=name: seen.update({n: a[0]}))
    with torch.no_grad():
        model(windows)
    for name, x in seen.items():
        assert found[name].tolist() == [pytest.approx(3 * float(x.double().abs().mean()), rel=1e-5)]


def test_checkpoints_of_neurons_are_proved_recorded_and_trained_on(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    text = Calibration(calibration_tokens=256)
    cases = (
        ({"codec": "elastic", "bits": "4-1.58", "time_steps": 4}, "bert"),
        ({"codec": "elastic", "bits": "1-1.58", "rotation": "gamma-sqp"}, "bert"),
        ({"codec": "lif", "bits": "1.58-1", "time_steps": 2}, "bert"),
        ({"codec": "elastic", "bits": "4-1.58", "time_steps": 2}, "llama"),
    )
    for index, (settings, family) in enumerate(cases):
        source, path = HfSource(tiny_checkpoint(family)), tmp_path / str(index)
        plan = plan_conversion(source, SpikeConfig.parse(settings), calibration=text)
        convert(source, plan, path)
        loaded = load_checkpoint(path, device="cpu")
        found = verify_model(loaded.model, torch.arange(1, 17)[None], path)
        assert found.clean and found.accumulators > 0 and found.code_accumulators > 0, (settings, found)
        record = record_text(loaded.model, loaded.tokenizer, "some text " * 30, tokens=100)
        steps = plan.config.time_steps
        for layer in record.layers:
            assert layer.tokens == record.tokens and layer.planes == steps == layer.virtual_steps
            assert layer.spikes_per_input == pytest.approx(steps * (layer.firing_rate or 0))
            assert sum(layer.histogram.values()) == steps * layer.inputs
        # Straight through what is packed: the inputs train, and a neuron passes what its surrogate does.
        linear = next(iter(spike_linears(loaded.model).values()))
        x = torch.randn(steps, 3, linear.in_features, requires_grad=True)
        linear(x).sum().backward()
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
        again = copy.deepcopy(linear).half().float()
        assert again.input_alpha is not None and linear.input_alpha is not None
        assert torch.equal(again.input_alpha, linear.input_alpha), "it stays float32"


def test_decoding_goes_on_in_streams(tiny_checkpoint: Fixture) -> None:
    """A causal model of two streams gives token by token what it gives for the whole text."""
    source = HfSource(tiny_checkpoint("llama"))
    settings = SpikeConfig.parse({"codec": "elastic", "bits": "4-1.58", "time_steps": 2})
    model = convert_in_memory(
        source, plan_conversion(source, settings, calibration=Calibration(calibration_tokens=256))
    )
    ids = torch.randint(256, (2, 10))
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :6], use_cache=True)
        rest = (
            model(ids[:, 6:], cache=first.past_key_values)
            if False
            else model(ids[:, 6:], past_key_values=first.past_key_values)
        )
    assert (torch.cat((first.logits, rest.logits), 1) - whole).abs().max() <= 1e-4 * whole.abs().max()


def test_what_does_not_train_is_refused(tiny_checkpoint: Fixture) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    for settings, word in (
        ({"rotation": "quarot"}, "quarot"),
        ({"weights": "gptq"}, "gptq"),
        ({"balance": "sqrt"}, "sqrt"),
    ):
        with pytest.raises(SpikeconvError, match=word):
            through_spikes(model, SpikeConfig.parse(settings))
