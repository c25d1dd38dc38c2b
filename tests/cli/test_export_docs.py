"""docs/export.md reads back what is exported, and finds what the model computes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spikeconv.data.sample import sample_text
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import SpikeLinear, spike_linears

Fixture = Callable[..., Any]
TOKENS = 7
PAGE = Path(__file__).parents[2] / "docs" / "export.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

CASES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("llama", ("--bits", "4-1.58")),
    ("qwen2", ("--bits", "4-1", "--temporal-code", "binary")),
    ("llama", ("--bits", "4-1", "--rotation", "quarot")),
    ("llama", ("--bits", "6-1.58", "--temporal-code", "ramp", "--slots", 9, "--balance", "sqrt", "--dead-zone", 0.3)),
    ("mistral", ("--scheme", "ramp-5", "--weights", "rtn", "--set", "weights.importance=equal")),
    ("qwen3", ("--bits", "4-1.58", "--temporal-code", "signed-digit", "--clip-quantile", 0.4, "--clip-roles", "q,k,v")),
    ("rwkv", ("--codec", "multihead", "--set", "weights.bits=4", "--layers", 4, "--time-steps", 2)),
    ("rwkv", ("--bits", "5-1.58", "--temporal-code", "binary")),
    ("llama", ("--codec", "repetition", "--time-steps", 6, "--set", "weights.bits=4")),
    ("llama", ("--codec", "elastic", "--time-steps", 1, "--set", "weights.bits=4")),
)


def membrane(how: str, weight: Any, signs: Any) -> Any:
    """What a neuron that takes the signs [slots, in] alone ends at, by what the file says of it."""
    v = c = np.zeros(len(weight))
    for spikes in signs:
        current = weight @ spikes
        if how == "C <- C + I, then V <- V + C":
            c = c + current
            v = v + c
        else:
            v = {"V <- V + I": v, "V <- 2 V + I": 2 * v}[how] + current
    return v


def told(model: Any, ids: Tensor) -> dict[str, dict[str, Any]]:
    """Input, counts, accumulators and output of every linear, by the model's own execution."""
    found: dict[str, dict[str, Any]] = {}

    def see(linear: SpikeLinear, arguments: tuple[Tensor, ...], name: str) -> None:
        encoding = linear.encoder(arguments[0])
        acc, spikes = linear.accumulate(encoding, "dense").flatten(-3, -2), encoding.spikes
        assert spikes is not None and linear.weight_scale is not None
        if spikes.stacked:  # digits: the last is worth one
            worth = (spikes.scale / spikes.scale[-1]).round().flatten(-3, -2).long()
            total = (worth * acc).sum(0)
        else:
            total = acc
        size = (acc.abs() * spikes.scale.flatten(-3, -2) * linear.weight_scale).double()
        bias = 0 if linear.bias is None else linear.bias.double()
        y = linear.with_bias(linear.product(encoding), torch.float32)
        found[name] = {
            "x": arguments[0].flatten(0, -2).float(),
            "accumulator": total.long(),
            "y": y.flatten(0, -2),
            "bound": 2.0**-22 * ((size.sum(0) if spikes.stacked else size) + abs(bias)),
        }

    hooks = [
        linear.register_forward_pre_hook(lambda module, arguments, name=name: see(module, arguments, name))
        for name, linear in spike_linears(model).items()
    ]
    with torch.inference_mode():
        model(ids[None])
    for hook in hooks:
        hook.remove()
    return {name: {key: value.numpy() for key, value in values.items()} for name, values in found.items()}


def test_the_page_reads_back_what_the_model_computes(
    spikeconv: Fixture, tiny_checkpoint: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(sample_text()[:4000], encoding="utf-8")
    calibration = ("--calibration", text, "--calibration-tokens", 64)
    for index, (family, settings) in enumerate(CASES):
        case = (family, *settings)
        folder = tmp_path / str(index)
        folder.mkdir()
        monkeypatch.chdir(folder)
        clipping = ("--clip-text", text, "--clip-tokens", 256) if "--clip-quantile" in settings else ()
        calibrated = calibration if {"--balance", "elastic", "--scheme"} & set(settings) else ()
        source = tiny_checkpoint(family)
        result = spikeconv("convert", source, "-o", "model", "-q", *settings, *calibrated, *clipping)
        assert result.code == 0, (case, result.err)
        chosen = ("--layer", "*.1.*", "--tokens", TOKENS, "-q")
        assert spikeconv("export", "model", "-o", "weights.npz", "-q").code == 0
        for form, file in (("events", "events.npz"), ("events", "events.parquet"), ("nir", "linears.nir")):
            result = spikeconv("export", "model", "--format", form, "-o", file, *chosen)
            assert result.code == 0, (case, result.err)
        loaded = load_checkpoint(folder / "model", device="cpu")
        ids = loaded.tokenizer(sample_text(), return_tensors="pt").input_ids[0, :TOKENS]
        model = told(loaded.model, ids)

        page: dict[str, Any] = {}
        exec("\n".join(BLOCKS), page)  # it asserts that its loop ends at the accumulators of the file
        check(case, page, model)


def check(case: Any, page: dict[str, Any], model: dict[str, dict[str, Any]]) -> None:
    """The graph of a page's namespace, its events and the table beside the model."""
    graph, simulate, potential = page["graph"], page["simulate"], page["potential"]
    names = [node.removesuffix(".input") for node in graph.inputs]
    listed = page["events"]["names"].tolist()
    assert listed == [name for name in model if ".1." in name] and set(listed) == set(names), case
    assert page["accumulator"].tolist() == model[listed[-1]]["accumulator"].tolist(), case
    for column in ("token", "slot", "neuron", "sign"):
        assert np.array_equal(page["table"][column].to_numpy(), page["events"][column]), (case, column)
    rows = np.array(listed)[page["events"]["layer"]]
    assert page["table"]["layer"].to_pylist() == rows.tolist()
    for name in names:
        entry, end = graph.nodes[f"{name}.input"], graph.nodes[f"{name}.output"]
        golden, weight = entry.metadata["golden"], graph.nodes[f"{name}.linear"].weight
        assert np.array_equal(weight, weight.round()) and np.array_equal(golden["x"], model[name]["x"])
        worth, code = entry.metadata["slot_weight"], json.loads(entry.metadata["code"])
        assert worth.tolist() == page["beside"]["slot_weight"][name] and code["slots"] == len(worth)
        counts = np.zeros((TOKENS, *entry.input_type["input"]), np.int64)
        for token in range(TOKENS):
            of = golden["token"] == token
            frames = np.zeros((len(worth), counts.shape[1]), np.int64)
            frames[golden["slot"][of], golden["neuron"][of]] = golden["value"][of]
            counts[token] = frames.sum(0)
            value_of = simulate(name, frames)
            found = value_of[f"{name}.integrator"]
            assert np.array_equal(found, model[name]["accumulator"][token]), (case, name, token)
            output = value_of[f"{name}.output"] * np.float64(golden["scale"][token]) + end.metadata.get("bias", 0)
            assert (abs(output - model[name]["y"][token]) <= model[name]["bound"][token]).all(), (case, name, token)
            if "zero_point_input" not in code and (how := code.get("membrane_without_slot_weights")):
                assert np.array_equal(membrane(how, weight, np.sign(frames)), found), (case, name, token)
        encoder(case, potential(entry, golden["x"]), json.loads(entry.metadata["encoder"])[-1], golden, counts)


def encoder(case: Any, u: Any, rule: dict[str, Any], golden: dict[str, Any], counts: Any) -> None:
    """The counts are what the rule that stands in the file makes of a potential; at a boundary either neighbour is."""
    scale, edge = golden["scale"][:, None].astype(np.float64), 1e-3
    counts, zero = counts[:, : u.shape[1]], -counts[:, u.shape[1] :]
    if rule["step"] == "multihead":
        decoded, step = counts * scale, 10.0 ** (rule["integer_digits"] - rule["layers"])
        largest = 10.0 ** rule["integer_digits"] - step
        assert (abs(abs(u).clip(max=largest) - abs(decoded)) <= step + edge * step).all(), case
        return
    if rule["step"] == "repetition":
        theta = abs(u).max(1, keepdims=True)
        assert np.allclose(theta / rule["time_steps"], scale, rtol=1e-5), case
        assert (abs(abs(u) / scale - abs(counts) - 0.5) <= 0.5 + edge).all() and (u * counts >= 0).all(), case
        return
    if rule["step"] == "count":
        kept, unit = rule["clip_ratio"], abs(u).max(1, keepdims=True)
        expected = kept * unit / rule["count_max"]
        if zero.size:
            low, high = u.min(1, keepdims=True).clip(max=0), u.max(1, keepdims=True).clip(min=0)
            expected = kept * (high - low) / rule["count_max"]
            assert (abs(-kept * low / scale - zero) <= 0.5 + edge).all(), case
        if rule["scale"] == "rms":
            expected = np.maximum(expected, rule["step"] * np.sqrt((u**2).mean(1, keepdims=True)))
        assert np.allclose(expected, scale, rtol=1e-5), case
    if not rule.get("dead_zone"):
        exact = u / scale + (zero if zero.size else 0)
        assert (abs(exact.clip(rule["count_min"], rule["count_max"]) - counts) <= 0.5 + edge).all(), case
