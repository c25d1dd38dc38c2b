"""A recording on disk is what was recorded; a damaged one is a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import spike_linears
from spikeconv.record.file import Recording, read_recording, write_recording
from spikeconv.record.session import record_task, record_texts
from spikeconv.record.text import record_text

Fixture = Callable[..., Any]
TEXT = "a text that goes on for a while, " * 20

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"bits": "4-1.58", "kv_bits": 4, "skip": ["down"]}),
    ("llama", {"bits": "6-1.58", "temporal_code": "ramp", "slots": 12}),
    ("rwkv", {"codec": "multihead"}),
    ("bert", {"bits": "4-1"}),
)


def test_what_is_read_is_what_was_recorded(converted: Fixture, tmp_path: Path) -> None:
    for index, (family, settings) in enumerate(CASES):
        loaded = load_checkpoint(converted(family, **settings), device="cpu")
        linear = next(iter(spike_linears(loaded.model)))
        record, arrays = record_texts(loaded, TEXT, 200, ((linear,), 7))
        plain = record_text(loaded.model, loaded.tokenizer, TEXT, tokens=200, connections=True)
        assert record == plain
        folder = tmp_path / str(index)
        write_recording(folder, Recording(record, {"checkpoint": {"name": "m"}, "text": {}, "versions": {}}, arrays))
        again = read_recording(folder)
        counts = [{count: times for count, times in layer.histogram.items() if times} for layer in record.layers]
        assert [layer.histogram for layer in again.record.layers] == counts
        assert [layer.spikes for layer in again.record.layers] == [layer.spikes for layer in record.layers]
        assert [layer.firing_rate for layer in again.record.layers] == [layer.firing_rate for layer in record.layers]
        assert again.record.sequences == record.sequences and again.record.float_macs == record.float_macs
        assert {kind: each.spikes for kind, each in again.record.cache.items()} == {
            kind: each.spikes for kind, each in record.cache.items()
        }
        assert again.about["checkpoint"] == {"name": "m"}
        for name, array in arrays.items():
            assert np.array_equal(again.arrays[name], array, equal_nan=array.dtype == np.float32)

        by_name = {layer.name: layer for layer in record.layers}
        tokens = np.zeros(arrays["position_spikes"].shape[1])
        for length in record.sequences:
            tokens[:length] += 1
        for name, spikes, potentials in zip(
            arrays["encoders"], arrays["position_spikes"], arrays["potentials"], strict=True
        ):
            layer = by_name[str(name)]
            assert np.isnan(spikes[tokens == 0]).all()
            mean = np.nansum(np.where(tokens > 0, spikes, 0) * tokens) / tokens.sum()
            assert mean == pytest.approx(layer.spikes_per_input, rel=1e-5)
            assert potentials.sum() == layer.inputs  # the text is shorter than what is looked at
        train = arrays[f"raster:{linear}"]
        assert train.shape[1:] == (7, by_name[linear].in_features) and set(np.unique(train)) <= {-1, 0, 1}


def test_potentials_are_those_before_anything_is_cut_off(converted: Fixture) -> None:
    loaded = load_checkpoint(converted("llama", bits="4-1.58"), device="cpu")
    name, linear = next(iter(spike_linears(loaded.model).items()))
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    _, arrays = record_texts(loaded, TEXT, 60)
    hook.remove()
    u = linear.encoder.potential(seen[0])  # nothing is clipped in this scheme
    scaled = (u / u.square().mean(-1, keepdim=True).sqrt()).flatten()
    edges = torch.from_numpy(arrays["potential_edges"])
    expected = torch.histogram(scaled.clamp(-7.9999, 7.9999), edges).hist
    found = torch.from_numpy(arrays["potentials"][list(arrays["encoders"]).index(name)])
    assert (found - expected).abs().sum() <= 4  # a value on an edge may fall either way


def test_whatever_runs_the_model_is_recorded(converted: Fixture) -> None:
    loaded = load_checkpoint(converted("llama", bits="4-1.58"), device="cpu")
    ids = torch.randint(256, (3, 11))
    record, arrays = record_task(loaded.model, lambda: [loaded.model(ids), loaded.model(input_ids=ids[:1, :5])])
    assert sorted(record.sequences) == [5, 11, 11, 11] and record.tokens == 38
    assert {layer.tokens for layer in record.layers} == {38}
    inputs = {layer.name: layer.inputs for layer in record.layers}
    assert arrays["potentials"].sum(1).tolist() == [inputs[name] for name in arrays["encoders"].tolist()]
    with pytest.raises(SpikeconvError, match="No converted linear is called x, as one is model"):
        record_task(loaded.model, lambda: None, (("x",), 4))
    assert not any(linear.encoder.observers for linear in spike_linears(loaded.model).values())


def test_a_damaged_recording_is_a_sentence(converted: Fixture, tmp_path: Path) -> None:
    loaded = load_checkpoint(converted("llama", bits="4-1.58"), device="cpu")
    record, arrays = record_texts(loaded, TEXT, 40)
    write_recording(tmp_path, Recording(record, {}, arrays))
    file, content = tmp_path / "record.json", (tmp_path / "record.json").read_text()
    good = json.loads(content)
    layer = good["record"]["layers"][0]
    for changed in (
        "",
        content[:-50],
        "[]",
        json.dumps({**good, "format": 2}),
        json.dumps({**good, "record": {}}),
        json.dumps({**good, "record": {**good["record"], "layers": [{**layer, "scheme": {"bits": 9}}]}}),
        json.dumps({**good, "record": {**good["record"], "layers": [{**layer, "more": 1}]}}),
        json.dumps({**good, "record": {**good["record"], "layers": [{**layer, "histogram": {"1": -4}}]}}),
        json.dumps({**good, "record": {**good["record"], "layers": [{**layer, "histogram": {"99999": 4}}]}}),
        json.dumps({**good, "record": {**good["record"], "sequences": "x"}}),
        json.dumps({**good, "record": {**good["record"], "sequences": []}}),
        json.dumps({**good, "record": {**good["record"], "float_macs": {"head": -1}}}),
        json.dumps({**good, "record": {**good["record"], "layers": [{**layer, "histogram": {"9": layer["inputs"]}}]}}),
        json.dumps({**good, "record": {**good["record"], "layers": [{**layer, "inputs": layer["inputs"] + 1}]}}),
    ):
        file.write_text(changed)
        with pytest.raises(SpikeconvError, match=r"record\.json"):
            read_recording(tmp_path)
    file.write_text(content)
    for name, array in (("potentials", np.zeros((1, 3))), ("raster:x", np.zeros((2, 2, 2))), ("more", np.zeros(1))):
        np.savez(tmp_path / "record.npz", **{**arrays, name: array})
        with pytest.raises(SpikeconvError, match=rf"record\.npz does not belong to .*{name}"):
            read_recording(tmp_path)
    (tmp_path / "record.npz").write_bytes((tmp_path / "record.npz").read_bytes()[:-30])
    with pytest.raises(SpikeconvError, match=r"record\.npz is damaged"):
        read_recording(tmp_path)
    with pytest.raises(SpikeconvError, match="`spikeconv record` makes one"):
        read_recording(tmp_path / "nowhere")
