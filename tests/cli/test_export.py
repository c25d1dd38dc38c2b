"""What is exported computes what the model computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikeconv.data.sample import sample_text
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import spike_linears

Fixture = Callable[..., Any]
TOKENS = 12


def test_events_and_weights_give_the_accumulators(spikeconv: Fixture, converted: Fixture, tmp_path: Path) -> None:
    cases: tuple[dict[str, Any], ...] = (
        {"bits": "4-1.58"},
        {"bits": "4-1"},
        {"bits": "6-1.58", "temporal_code": "ramp", "slots": 12},
        {"bits": "4-1.58", "temporal_code": "signed-digit"},
        {"codec": "repetition", "bits": "4-1.58", "time_steps": 6},
    )
    for index, settings in enumerate(cases):
        path = converted("llama", **settings)
        weights, events = tmp_path / f"w{index}.npz", tmp_path / f"e{index}.npz"
        assert spikeconv("export", path, "-o", weights, "-q").code == 0
        options = ("--format", "events", "--layer", "*.1.*", "--tokens", TOKENS)
        assert spikeconv("export", path, "-o", events, *options, "-q").code == 0
        both = {order: dict(np.load(events)) for order in ("sync",)}
        assert spikeconv("export", path, "-o", events, *options, "--order", "async", "--force", "-q").code == 0
        both["async"] = dict(np.load(events))

        loaded = load_checkpoint(path, device="cpu")
        accumulators: dict[str, torch.Tensor] = {}
        hooks = [
            linear.register_forward_hook(
                lambda module, arguments, _y, name=name, found=accumulators: found.update(
                    {name: module.accumulate(module.encoder(arguments[0]), "dense")[0]}
                )
            )
            for name, linear in spike_linears(loaded.model).items()
        ]
        with torch.no_grad():
            loaded.model(loaded.tokenizer(sample_text(), return_tensors="pt").input_ids[:, :TOKENS])
        for hook in hooks:
            hook.remove()
        integers = np.load(weights)
        schemes = json.loads(str(integers["scheme"]))
        assert schemes.keys() == accumulators.keys()
        for order, found in both.items():
            assert list(found["names"]) == [name for name in accumulators if ".1." in name]
            for number, name in enumerate(found["names"]):
                linear = spike_linears(loaded.model)[str(name)]
                weight = integers[f"{name}.weight"].astype(np.int64)
                assert np.array_equal(integers[f"{name}.weight_scale"], linear.weight_scale.numpy())  # type: ignore[union-attr]
                ours = found["layer"] == number
                token, slot, neuron = (found[column][ours] for column in ("token", "slot", "neuron"))
                worth = found[f"slot_weight:{name}"][slot] * found["sign"][ours].astype(np.int64)
                acc = np.zeros((TOKENS, len(weight)), np.int64)
                np.add.at(acc, token, worth[:, None] * weight.T[neuron])
                if f"zero_point:{name}" in found:
                    acc -= found[f"zero_point:{name}"][:, None] * weight.sum(1)
                assert np.array_equal(acc, accumulators[str(name)].numpy()), (settings, order, name)
                first, second = (slot, neuron) if order == "sync" else (neuron, slot)
                key = np.stack((token, first, second), 1)
                assert (np.lexsort(key.T[::-1]) == np.arange(len(key))).all(), "in the order that was asked for"


def test_bad_input(
    spikeconv: Fixture, converted: Fixture, tiny_checkpoint: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = converted("llama", bits="4-1.58"), tmp_path / "kept.npz"
    kept.write_bytes(b"mine")
    digits, graph, table = converted("rwkv", codec="multihead"), tmp_path / "n.nir", tmp_path / "n.parquet"
    neurons = tmp_path / "neurons"
    calibration = ("--calibration-tokens", 64, "-q")
    assert (
        spikeconv(
            "convert", tiny_checkpoint("llama"), "-o", neurons, "--codec", "lif", "--time-steps", 2, *calibration
        ).code
        == 0
    )
    for arguments, words in (
        ((path, "-o", kept), ("exists", "--force")),
        ((path, "-o", tmp_path / "x.txt"), (".npz",)),
        ((path, "-o", tmp_path / "n.npz", "--order", "async"), ("--order", "--format events")),
        ((path, "-o", tmp_path / "n.npz", "--format", "events", "--layer", "x"), ("called x",)),
        ((path, "-o", tmp_path / "no" / "n.npz"), ("failed", "No such file")),
        ((converted("llama", bits="4-16"), "-o", tmp_path / "n.npz", "--format", "events"), ("sends no spikes",)),
        ((path, "-o", tmp_path / "n.npz", "--format", "nir"), (".nir",)),
        ((path, "-o", table), (".npz",)),
        ((path, "-o", graph, "--layer", "x"), ("--layer", "--format events")),
        ((path, "-o", graph, "--format", "nir", "--order", "sync"), ("--order", "--format events")),
        ((path, "-o", tmp_path / "no" / "n.nir", "--format", "nir"), ("failed", "No such file")),
        ((path, "-o", tmp_path / "no" / "n.parquet", "--format", "events"), ("failed", "No such file")),
        ((digits, "-o", graph, "--format", "nir"), ("float weights", "weights.bits")),
        ((neurons, "-o", table, "--format", "events"), ("streams", "time steps")),
        ((neurons, "-o", graph, "--format", "nir"), ("streams", "time steps")),
        ((tmp_path, "-o", tmp_path / "n.npz"), ("not a converted checkpoint",)),
    ):
        result = spikeconv("export", *arguments, "-q")
        assert result.code == 2 and "Traceback" not in result.err and result.out == "", (arguments, result)
        assert all(word in result.err for word in words), (arguments, result.err)
    monkeypatch.setattr("spikeconv.cli.export.find_spec", lambda _name: None)
    for form, target, name in (
        ("nir", graph, "pip install 'spikeconv[nir]'"),
        ("events", table, "pip install pyarrow"),
    ):
        result = spikeconv("export", path, "-o", target, "--format", form)
        assert result.code == 2 and name in result.err and len(result.err.splitlines()) == 1, result
    assert kept.read_bytes() == b"mine" and not list(tmp_path.glob("n.*"))
    assert not list(tmp_path.glob(".*incomplete*"))
