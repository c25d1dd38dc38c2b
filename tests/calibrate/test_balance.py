"""The balance is what its equation says, folds into what stands in front, and leaves the function as it is."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.calibrate.balance import SMALLEST, GroupStatistics, balance
from spikeconv.calibrate.statistics import input_statistics
from spikeconv.calibrate.windows import Calibration
from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.data.sample import sample_text
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family, head_dim
from spikeconv.sources.balanced import BalancedSource
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.sources.model import ModelSource
from spikeconv.sources.model_config import hf_config

Fixture = Callable[..., Any]
TOKENS = 256


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(sample_text(), encoding="utf-8")
    return Calibration(calibration=str(path), calibration_tokens=TOKENS)


@pytest.fixture(scope="module")
def planned(tiny_checkpoint: Fixture, text: Calibration) -> Callable[..., tuple[HfSource, Plan]]:
    def plan(family: str, **settings: Any) -> tuple[HfSource, Plan]:
        source = HfSource(tiny_checkpoint(family))
        config = SpikeConfig.parse({"balance": "sqrt", **settings})
        return source, plan_conversion(source, config, calibration=text)

    return plan


def dense(path: Path, windows: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    """d by module name of the first linear of a group, from a forward of the whole model in float64."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    groups = {"self_attn.q_proj": ("q_proj", "k_proj", "v_proj"), "mlp.gate_proj": ("gate_proj", "up_proj"),
              "self_attn.o_proj": ("o_proj",), "mlp.down_proj": ("down_proj",)}  # fmt: skip
    inputs: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if any(name.endswith(first) for first in groups):
            module.register_forward_pre_hook(lambda _, x, name=name: inputs.setdefault(name, []).append(x[0]))
    with torch.no_grad():
        model(windows)
    result = {}
    heads, size = model.config.num_key_value_heads, head_dim(model.config)
    for name, (x,) in inputs.items():
        first = next(first for first in groups if name.endswith(first))
        parent = model.get_submodule(name.rpartition(".")[0])
        stacked = torch.cat([getattr(parent, member).weight for member in groups[first]])
        tokens, smooth = x.flatten(0, 1), kind == "smoothquant"
        if smooth:
            weights, values = stacked.abs().amax(0), tokens.abs().amax(0)
        else:
            weights, values = stacked.square().sum(0), tokens.square().mean(0)
        if first == "self_attn.o_proj":
            reduce = torch.amax if smooth else torch.mean
            weights, values = (
                reduce(t.view(heads, -1, size), 1, keepdim=True).expand(-1, len(t) // heads // size, -1).flatten()
                for t in (weights, values)
            )
        d = (weights / values) ** (1 / 2 if smooth else 1 / 4)
        result[name] = (d / d.log().mean().exp()).detach()
    return result


def test_the_balanced_model_computes_the_same(planned: Fixture, transformer: str, logits_of: Fixture) -> None:
    """Also where linears are skipped, and the d are those of the whole model computed at once."""
    for kind in ("smoothquant", "sqrt"):
        source, plan = planned(transformer, skip=["v", "model.layers.1.mlp.up_proj"], balance=kind)
        assert len(plan.diagonals) == 8
        for name, d in dense(source.path, plan.calibration.windows, kind).items():
            found = plan.diagonals[next(linear.group for linear in plan.layout if linear.name == name)]
            torch.testing.assert_close(found.double(), d, rtol=1e-4, atol=0)
    balanced = plan.balanced(source, None)
    expected, found = logits_of(load_float(source).model), logits_of(load_float(balanced).model)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    names = balanced.names()
    different = {name for name in names if not torch.equal(balanced.load(name), source.load(name))}
    untouched = {name for name in names if "layers" not in name or "q_norm" in name or "k_norm" in name}
    biases = {name for name in names if name.endswith(("q_proj.bias", "k_proj.bias"))}
    assert different == set(names) - untouched - biases


def test_the_heads_of_one_key_value_head_share_their_factors(planned: Fixture) -> None:
    for family in ("llama", "qwen3"):
        source, plan = planned(family)
        config = hf_config(source.config)
        d = plan.diagonals["model.layers.0.o"].view(config.num_key_value_heads, -1, head_dim(config))
        assert d.shape[1] > 1 and torch.equal(d, d[:, :1].expand_as(d)) and not torch.equal(d[0], d[1])


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_weights_are_divided_by_what_the_stored_norm_really_scales_by(tiny_checkpoint: Fixture, kept: Any) -> None:
    """The rounding of γ d is no error; a γ that is zero stays zero."""
    source = HfSource(tiny_checkpoint("llama"))
    plan = make_plan(source, SpikeConfig())
    model = AutoModelForCausalLM.from_pretrained(source.path)
    norm, linear = "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"
    model.get_parameter(norm).data[[0, 5]] = 0
    d = torch.rand(72) + 0.5
    read = ModelSource(model)
    balanced = BalancedSource(read, plan.layout, {"model.layers.0.qkv": d}, kept, {linear})
    before, after = read.load(norm), balanced.load(norm)
    assert after.dtype == balanced.dtype(norm) == kept and torch.equal(after, (before * d).to(kept))
    assert not after[[0, 5]].any()
    live = before != 0
    products = (balanced.load(linear) * after.float())[:, live], (read.load(linear) * before)[:, live]
    assert torch.equal(balanced.load(linear)[:, 0], read.load(linear)[:, 0] / d[0])
    torch.testing.assert_close(*products, rtol=2**-22, atol=0)
    assert balanced.load("model.layers.0.self_attn.k_proj.weight").dtype == kept


def test_silent_channels_have_factors_that_are_numbers() -> None:
    x, w = torch.tensor([4.0, 0.0, 1.0, 9.0]).double(), torch.tensor([1.0, 1.0, 0.0, 16.0]).double()
    d = balance(GroupStatistics(x, w, x, w), "sqrt").double()
    rms, norms = torch.tensor([2, 1.5 * SMALLEST, 1, 3]), torch.tensor([1, 1, 1.5 * SMALLEST, 4])
    expected = (norms / rms).sqrt().double()
    torch.testing.assert_close(d, expected / expected.log().mean().exp(), rtol=1e-6, atol=0)
    smooth = (x.clamp(min=3.5 * SMALLEST), w.clamp(min=4.5 * SMALLEST))
    wanted = (smooth[1] / smooth[0]).sqrt()
    found = balance(GroupStatistics(x * 0, w * 0, x, w), "smoothquant").double()
    torch.testing.assert_close(found, wanted / wanted.log().mean().exp(), rtol=1e-6, atol=0)
    for kind in ("sqrt", "smoothquant"):
        for silent in ((x * 0, w), (x, w * 0)):
            assert balance(GroupStatistics(*silent, *silent), kind).tolist() == [1] * 4


def test_statistics_are_the_same_every_time_and_for_every_source(tiny_checkpoint: Fixture, family: str) -> None:
    source = HfSource(tiny_checkpoint(family))
    layout = make_plan(source, SpikeConfig()).layout
    groups = {linear.group for linear in layout}
    windows = torch.randint(0, 256, (6, 32))
    first = input_statistics(source, windows, groups, batch_tokens=64)
    again = input_statistics(ModelSource(load_float(source).model), windows, groups, batch_tokens=64)
    at_once = input_statistics(source, windows, groups)
    assert first.keys() == groups
    for group in groups:
        assert torch.equal(first[group].input_square, again[group].input_square)
        assert torch.equal(first[group].weight_square, at_once[group].weight_square)
        torch.testing.assert_close(first[group].input_square, at_once[group].input_square, rtol=1e-4, atol=0)


def test_statistics_hold_one_layer(tiny_checkpoint: Fixture, family: str) -> None:
    """Of the arrays that the source gave, only those of one layer and of what is no layer are alive at any time."""
    source, windows = HfSource(tiny_checkpoint(family, num_hidden_layers=5)), torch.randint(0, 256, (3, 16))
    stacks = find_family(source.config).stacks
    sizes: dict[str, int] = {}
    for name in source.names():
        layer = next((name[len(s.layers) + 1 :].split(".")[0] for s in stacks if name.startswith(s.layers)), "none")
        sizes[layer] = sizes.get(layer, 0) + torch.Size(source.shape(name)).numel() * 4
    alive, most = 0, 0

    class Watched(ModelSource):
        def load(self, name: str) -> torch.Tensor:
            nonlocal alive, most
            array = super().load(name).numpy().copy()

            def gone(size: int = array.nbytes) -> None:
                nonlocal alive
                alive -= size

            weakref.finalize(array, gone)
            alive += array.nbytes
            most = max(most, alive)
            return torch.from_numpy(array)

    layout = make_plan(source, SpikeConfig()).layout
    input_statistics(Watched(load_float(source).model), windows, {linear.group for linear in layout}, batch_tokens=32)
    assert len(sizes) == 6 and 0 < most <= sizes["none"] + max(sizes[layer] for layer in "01234")


def test_a_plan_says_what_cannot_be_balanced(tiny_checkpoint: Fixture, text: Calibration) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    with pytest.raises(SpikeconvError, match=r"balance=sqrt needs rotation=gamma-sqp or none"):
        SpikeConfig.parse({"balance": "sqrt", "rotation": "quarot"})
    with pytest.raises(SpikeconvError, match=r"self_attn\.k_proj none, but they have the same input"):
        make_plan(source, SpikeConfig.parse({"overrides": [{"pattern": "q", "settings": {"balance": "sqrt"}}]}))
    with pytest.raises(SpikeconvError, match="needs statistics"):
        make_plan(source, SpikeConfig.parse({"balance": "sqrt"})).balanced(source, None)
    down = SpikeConfig.parse({"overrides": [{"pattern": "down", "settings": {"balance": "sqrt"}}]})
    assert plan_conversion(source, down, calibration=text).diagonals.keys() == {
        "model.layers.0.down",
        "model.layers.1.down",
    }
    assert json.dumps(down.model_dump(mode="json")).count('"balance": "none"') == 1


def test_a_norm_that_its_dtype_cannot_hold_is_named(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    layout, norm = make_plan(source, SpikeConfig()).layout, "model.layers.0.input_layernorm.weight"
    loud = BalancedSource(source, layout, {"model.layers.0.qkv": torch.full((72,), 1e6)}, torch.float16)
    with pytest.raises(SpikeconvError, match=rf"{norm} holds .* when it is balanced, too much for float16"):
        loud.load(norm)
