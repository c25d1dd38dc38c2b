"""SpikeGPT against a plain loop of its equations, token by token."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from rwkv_files import make_model, write_pth
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, RwkvConfig, RwkvForCausalLM

import spikeconv
from spikeconv.errors import SpikeconvError
from spikeconv.models.lif import heaviside, lif
from spikeconv.models.spikegpt import Neuron, SpikeGptForCausalLM
from spikeconv.sources.float_model import load_float
from spikeconv.sources.pth import PthSource
from spikeconv.sources.resolve import open_source

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"lif_in_ffn": True},
    {"binary_embedding": True},
    {"spikes": "heaviside"},
    {"spikes": "none"},
]


def fire(y: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1, with the surrogate that autograd differentiates."""
    charged = potential + 0.5 * (y - potential)
    spike = heaviside(charged - 1.0)
    return spike, charged * (1 - spike)


def loop(model: SpikeGptForCausalLM, ids: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits [tokens, vocabulary] and the spikes of all layers, in float64."""
    model = copy.deepcopy(model).double()
    config, state, logits, spikes = model.config, {}, [], []

    def past(name: str, like: Tensor) -> Tensor:
        return state.get(name, torch.zeros_like(like))  # type: ignore[no-any-return]

    def end(name: str, y: Tensor) -> Tensor:
        if config.spikes == "none":
            return y
        if config.spikes == "heaviside":
            return (y >= 0).double()
        spike, state[name] = fire(y, past(name, y))
        spikes.append(spike)
        return spike

    for token in ids:
        x = model.rwkv.embeddings.weight[token]
        x = (x >= 0).double() if config.binary_embedding else x
        for index, block in enumerate(model.rwkv.blocks):
            x = block.pre_ln(x) if index == 0 else x
            a, name = block.attention, f"{index}.attention"
            now, before = block.ln1(x), past(f"{name}.x", x)
            mixed = [m.flatten() * now + (1 - m.flatten()) * before for m in mixes(a)]
            k, v, r = a.key(mixed[0]), a.value(mixed[1]), a.receptance(mixed[2]).sigmoid()
            top, bottom = past(f"{name}.a", k), past(f"{name}.b", k)
            bonus = (a.time_first + k).exp()
            y = a.output(r * (top + bonus * v) / (bottom + bonus))
            decay = (-a.time_decay.exp()).exp()
            state[f"{name}.a"], state[f"{name}.b"] = decay * top + k.exp() * v, decay * bottom + k.exp()
            state[f"{name}.x"] = now
            x = x + end(f"{name}.lif", y)
            f, name = block.feed_forward, f"{index}.ffn"
            now, before = block.ln2(x), past(f"{name}.x", x)
            mixed = [m.flatten() * now + (1 - m.flatten()) * before for m in mixes(f)]
            state[f"{name}.x"] = now
            key = f.key(mixed[0])
            if config.lif_in_ffn:
                hidden, state[f"{name}.inner"] = fire(key, past(f"{name}.inner", key))
                spikes.append(hidden)
            else:
                hidden = key.relu() ** 2
            x = x + end(f"{name}.lif", f.receptance(mixed[1]).sigmoid() * f.value(hidden))
        logits.append(model.head(model.rwkv.ln_out(x)))
    return torch.stack(logits), spikes


def mixes(module: nn.Module) -> list[Tensor]:
    kinds = ("key", "value", "receptance") if hasattr(module, "time_mix_value") else ("key", "receptance")
    return [module.get_parameter(f"time_mix_{kind}") for kind in kinds]


def spikes_of(model: Any, run: Any) -> list[Tensor]:
    """What its neurons send while something runs, by call."""
    seen: list[Tensor] = []
    neurons = [module for module in model.modules() if isinstance(module, Neuron) and module.kind == "lif"]
    hooks = [each.register_forward_hook(lambda _m, _a, y: seen.append(y[0])) for each in neurons]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_a_plain_loop_gives_the_same_spikes() -> None:
    for variant in VARIANTS:
        model = make_model("spikegpt", **SIZES, **variant)
        ids = torch.randint(256, (40,)).tolist()
        expected, spikes = loop(model, ids)
        seen = spikes_of(model, lambda model=model, ids=ids: model(torch.tensor([ids])))
        found = model(torch.tensor([ids])).logits[0]
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        if variant.get("spikes", "lif") == "lif":
            # The loop has them token by token, layer by layer; the model layer by layer.
            per_token = len(spikes) // len(ids)
            for layer in range(per_token):
                wanted = torch.stack(spikes[layer::per_token])
                assert torch.equal(seen[layer][0].double(), wanted)
                assert 0 < wanted.mean() < 1


@torch.no_grad()
def test_rasters_and_potentials_are_recorded(tmp_path: Path) -> None:
    """Of a float model, and of one whose linears are driven by spikes."""
    model = make_model("spikegpt", **SIZES, lif_in_ffn=True)
    for each in (model, spikeconv.convert(model, bits="4-1.58")):
        ids = torch.randint(256, (2, 30))
        with spikeconv.record_spikes(each, trains=["*.lif1", "*.inner"]) as spikes:
            each(ids)
        sent = spikes_of(each, lambda each=each, ids=ids: each(ids))
        assert len(spikes.neurons) == len(sent) == 9 and all(train.any() for train in sent[::3])
        for (name, record), train in zip(sorted(spikes.neurons.items(), key=order), sent, strict=True):
            assert (record.tokens, record.channels) == (60, train.shape[-1])
            assert record.spikes == train.sum() and record.firing_rate == pytest.approx(train.mean().item())
            if name.endswith("lif2"):
                with pytest.raises(SpikeconvError, match="is kept"):
                    spikes.raster(name)
                continue
            raster, potentials = spikes.raster(name)
            assert torch.equal(raster, train.bool()) and torch.equal(potentials >= 1, raster)
            # U_t - (1 - β) H_(t-1) is β Y: after a spike nothing is left of what was there.
            left = torch.where(raster, 0, potentials)[:, :-1]
            drive = potentials[:, 1:] - 0.5 * left
            torch.testing.assert_close(potentials[:, 1:], left + 0.5 * (2 * drive - left), rtol=0, atol=1e-5)


def order(item: tuple[str, Any]) -> tuple[int, int]:
    """Of the calls in a forward: by layer, and attention before feed-forward."""
    _, _, layer, place, *_ = item[0].split(".")
    return int(layer), ("lif1", "feed_forward", "lif2").index(place)


@torch.no_grad()
def test_spikes_of_the_inner_neurons_are_sent_as_they_are() -> None:
    """SpikeGPT-B's `ffn.value` reads spikes: nothing is lost, and each costs one."""
    model = make_model("spikegpt", **SIZES, lif_in_ffn=True)
    ids = torch.randint(256, (2, 30))
    for settings in ({"bits": "4-1.58"}, {"scheme": "ramp-5", "balance": "none"}, {"bits": "16-1.58"}):
        spiking = spikeconv.convert(model, **settings)
        value = spiking.rwkv.blocks[1].feed_forward.value
        seen: list[Tensor] = []
        hook = value.register_forward_pre_hook(lambda _m, arguments, seen=seen: seen.append(arguments[0]))
        with spikeconv.record_spikes(spiking) as spikes:
            spiking(ids)
        hook.remove()
        assert seen[0].any() and torch.equal(value.encoder(seen[0]).decode(), seen[0])
        layer = spikes["rwkv.blocks.1.feed_forward.value"]
        assert layer.spikes == seen[0].sum() and layer.virtual_steps == 1


@torch.no_grad()
def test_a_model_without_spikes_is_rwkv4() -> None:
    model = make_model("spikegpt", **SIZES, spikes="none")
    twin = RwkvForCausalLM(RwkvConfig(vocab_size=256, **SIZES, rescale_every=0)).eval()
    twin.load_state_dict(model.state_dict())
    ids = torch.randint(256, (2, 17))
    torch.testing.assert_close(model(ids).logits, twin(ids).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_long_contexts_in_chunks_token_by_token_and_at_once() -> None:
    for variant in ({}, {"lif_in_ffn": True, "binary_embedding": True}):
        model = make_model("spikegpt", **SIZES, **variant)
        ids = torch.randint(256, (2, 600))
        whole = model(ids, use_cache=True)
        for sizes in ([1] * 30, [7, 64, 1, 500, 28]):
            state, parts = None, []
            for part in ids[:, : sum(sizes)].split(sizes, 1):
                output = model(part, state=state, use_cache=True)
                state = output.state
                parts.append(output.logits)
            expected = whole.logits[:, : sum(sizes)]
            assert (torch.cat(parts, 1) - expected).abs().max() <= 1e-4 * expected.abs().max()
        for one, other in zip(state, whole.state, strict=True):
            assert [part.shape for part in one if isinstance(part, Tensor)] == [
                part.shape for part in other if isinstance(part, Tensor)
            ]
            torch.testing.assert_close(one.attention_potential, other.attention_potential, rtol=0, atol=1e-4)


def test_generation_carries_the_state() -> None:
    model = make_model("spikegpt", **SIZES)
    ids = torch.randint(1, 256, (1, 9))
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    found = model.generate(ids, **options)
    for end in range(9, 21):
        assert model(found[:, :end]).logits[0, -1, 1:].argmax() + 1 == found[0, end] or found[0, end] == 0


def test_gradients_are_those_of_the_loop() -> None:
    """Through the spikes and through the reset, forward and back in time."""
    y = torch.randn(3, 25, 6, dtype=torch.float64) * 2
    y.requires_grad_()
    start = (torch.rand(3, 6, dtype=torch.float64) * 0.9).requires_grad_()
    potential, spikes = start, []
    for drive in y.unbind(1):
        spike, potential = fire(drive, potential)
        spikes.append(spike)
    weights = torch.randn(3, 25, 6, dtype=torch.float64)
    expected = torch.autograd.grad((torch.stack(spikes, 1) * weights).sum() + potential.sum(), (y, start))
    given, begun = y.detach().float().requires_grad_(), start.detach().float().requires_grad_()
    found, last = lif(given, begun)
    assert torch.equal(found.double(), torch.stack(spikes, 1)) and 0.1 < found.mean() < 0.9
    gradients = torch.autograd.grad((found * weights.float()).sum() + last.sum(), (given, begun))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_halving_every_six_layers_is_another_function() -> None:
    """What the public inference script does to avoid overflow in float16: a spike stays 1, so the spikes change."""
    model = make_model("spikegpt", **{**SIZES, "num_hidden_layers": 8})
    ids = torch.randint(256, (1, 64))
    expected = spikes_of(model, lambda: model(ids))
    for index, block in enumerate(model.rwkv.blocks):
        block.attention.output.weight.div_(2 ** (index // 6))
        block.feed_forward.value.weight.div_(2 ** (index // 6))
    model.rwkv.blocks[5].register_forward_hook(lambda _m, _a, output: (output[0] / 2, output[1]))
    found = spikes_of(model, lambda: model(ids))
    assert all(torch.equal(one, other) for one, other in zip(found[:12], expected[:12], strict=True))
    assert (found[12] != expected[12]).float().mean() > 0.01


def test_a_file_has_to_be_said_to_be_spikegpt(tmp_path: Path) -> None:
    model = make_model("spikegpt", **SIZES)
    file = write_pth(tmp_path / "model.pth", model, "spikegpt")
    taken = open_source(file)
    assert taken.config["model_type"] == "rwkv" and "--arch spikegpt" in (taken.assumption or "")
    ids = torch.randint(256, (1, 11))
    said = PthSource(file, "spikegpt")
    assert said.assumption is None and said.config["binary_embedding"] is False
    assert torch.equal(load_float(said, device="cpu").model(ids).logits, model.eval()(ids).logits)
    assert PthSource(file, "spikegpt-b").config["lif_in_ffn"]
    assert PthSource(file, "spikegpt-binary").config["binary_embedding"]
    for arch, words in (("spikegtp", "Did you mean spikegpt"), ("rwkv", "unknown")):
        with pytest.raises(SpikeconvError, match=words):
            open_source(file, arch=arch)
    other = write_pth(tmp_path / "six.pth", make_model("6", **SIZES), "6")
    with pytest.raises(SpikeconvError, match="holds RWKV-6"):
        open_source(other, arch="spikegpt")
    with pytest.raises(SpikeconvError, match="says itself"):
        model.save_pretrained(tmp_path / "folder")
        open_source(tmp_path / "folder", arch="spikegpt")
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "folder"), SpikeGptForCausalLM)
