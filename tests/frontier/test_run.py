import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import spikeconv.frontier.run as run_module
from spikeconv import __version__, record_spikes
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.recipe import read_settings
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.frontier import store as store_module
from spikeconv.frontier.grid import Point
from spikeconv.frontier.measure import Protocol
from spikeconv.frontier.run import Prepared, run_frontier
from spikeconv.frontier.store import Store, source_identity
from spikeconv.loading import LoadedModel
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource

TEXTS = {"docs": "It was the best of times. " * 20, "boolq": "Call me Ishmael; some years ago I went to sea. " * 12}
PROTOCOL = Protocol(TEXTS, windows=2, device="cpu")
SDLLM = Point(label="SDLLM", mark="paper", scheme="sdllm-4-1.58")
RAMP = Point(label="ramp", mark="ours", settings={"bits": "6-1.58", "temporal_code": "ramp", "slots": 8})
DIGITS = Point(label="3L", mark="paper", scheme="spikerwkv-3l")


@pytest.fixture
def source(tiny_checkpoint: Callable[..., Path]) -> HfSource:
    return HfSource(tiny_checkpoint("llama"))


def test_numbers_are_those_of_a_conversion_measured_by_hand(source: HfSource, tmp_path: Path) -> None:
    found = run_frontier(source, [SDLLM, RAMP, DIGITS], PROTOCOL, tmp_path / "out")
    assert [row.label for row in found.rows] == ["float", "SDLLM", "ramp", "3L"] and not found.left_out
    float_model = load_float(source, device="cpu")
    assert found.rows[0].measured.spikes_per_input is None and found.worst(found.rows[0]) == 1
    for point, row in zip([SDLLM, RAMP, DIGITS], found.rows[1:], strict=True):
        plan = make_plan(source, read_settings(point.scheme, point.settings)[0])
        model = convert_in_memory(source, plan)
        loaded = LoadedModel(model, float_model.tokenizer, source.path, "by hand")
        for name, text in TEXTS.items():
            found_by_hand = perplexity(loaded, text, window=64, max_tokens=128).perplexity
            assert row.measured.perplexity[name] == found_by_hand
        with record_spikes(model) as spikes, torch.inference_mode():
            for text in TEXTS.values():
                ids = torch.tensor(loaded.tokenizer(text)["input_ids"][:128])
                for window in ids.view(2, 64):
                    model(window[None], use_cache=False)
        macs = {job.linear.name: job.weights for job in plan.jobs}
        mean = sum(spikes[name].spikes_per_input * size for name, size in macs.items()) / sum(macs.values())
        assert row.measured.spikes_per_input == pytest.approx(mean, rel=1e-12)
        assert row.measured.bytes == sum(
            tensor.nbytes for name, tensor in model.state_dict().items() if name != "lm_head.weight"
        )  # tied
    assert [row.measured.slots for row in found.rows] == [None, 8, 8, 3]


def test_an_interruption_loses_only_the_point_it_falls_into(
    source: HfSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls, real = tmp_path / "out", [], run_module.measure_conversion

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(run_module, "measure_conversion", interrupted)
    with pytest.raises(KeyboardInterrupt, match="2 of 3 points are in"):
        run_frontier(source, [SDLLM, RAMP], PROTOCOL, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 2
    kept: dict[str, bool] = {}
    found = run_frontier(
        source, [SDLLM, RAMP], PROTOCOL, folder, on_row=lambda label, _, old: kept.update({label: old})
    )
    assert kept == {"float": True, "SDLLM": True, "ramp": False} and len(calls) == 3
    assert before.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items()

    for damage in (b"", b"{", b'{"measured": {}}', b"\xff\xff", b"[1]"):  # measured again, the others not
        (folder / min(before)).write_bytes(damage)
        notes: list[str] = []
        again = run_frontier(source, [SDLLM, RAMP], PROTOCOL, folder, note=notes.append)
        assert any("cannot be read" in note for note in notes)
        assert [row.measured.perplexity for row in again.rows] == [row.measured.perplexity for row in found.rows]
        assert json.loads((folder / min(before)).read_text())["measured"]["perplexity"]


def test_a_measurement_belongs_to_all_that_it_depends_on(
    source: HfSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, text = Store(tmp_path / "out"), tmp_path / "text.txt"
    text.write_text("one")

    def name(point: Point = RAMP, protocol: Protocol = PROTOCOL, path: Path = source.path) -> str:
        identity = {
            "source": source_identity(HfSource(path)),
            "protocol": protocol.identity(),
            "settings": Prepared.of(point).identity(),
        }
        return store.path(identity).name

    def other(**settings: Any) -> Point:
        return RAMP.model_copy(update={"settings": {**RAMP.settings, **settings}})

    shutil.copytree(source.path, tmp_path / "model")
    assert name(path=tmp_path / "model") == name()  # wherever it lies
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    names = [name(), name(path=tmp_path / "model")]
    names += [name(other(slots=9)), name(other(skip=["o"])), name(other(calibration_seed=1)), name(SDLLM)]
    for changed in (
        {"windows": 3},
        {"limit": 5},
        {"limit": 6},
        {"dtype": "bfloat16"},
        {"texts": {**TEXTS, "boolq": ""}},
    ):
        names.append(name(protocol=replace(PROTOCOL, **changed)))
    names.append(name(other(calibration=str(text))))
    text.write_text("two")
    names.append(name(other(calibration=str(text))))
    same = Point(label="else", mark="paper", settings={"bits": "6-1.58", "code": {"kind": "ramp", "slots": 8}})
    assert name(same) == names[0]  # labels and spellings play no part
    monkeypatch.setattr(store_module, "__version__", f"{__version__}.1")
    names.append(name())
    assert len(set(names)) == len(names)


def test_what_a_source_cannot_have_is_left_out_and_the_rest_measured(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = HfSource(tiny_checkpoint("rwkv"))
    quarot = Point(label="QuaRot", mark="paper", scheme="quarot-4-1.58")
    protocol = replace(PROTOCOL, windows=1, texts={name: 4 * text for name, text in TEXTS.items()})
    found = run_frontier(source, [quarot, SDLLM], protocol, tmp_path / "out")
    assert [row.label for row in found.rows] == ["float", "SDLLM"]
    assert "rotation=quarot is impossible" in found.left_out["QuaRot"]
    with pytest.raises(SpikeconvError, match=r"No point of the grid can be measured\. QuaRot: rotation=quarot"):
        run_frontier(source, [quarot], protocol, tmp_path / "out")


def test_a_text_of_fewer_windows_than_asked_for(source: HfSource, tmp_path: Path) -> None:
    with pytest.raises(SpikeconvError, match="The text docs has 8 windows of 64 tokens, not 9"):
        run_frontier(source, [SDLLM], replace(PROTOCOL, windows=9), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_text_of_the_calibration_is_told(source: HfSource, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXTS["docs"])
    settings = {"balance": "sqrt", "calibration": str(text), "calibration_tokens": 128}
    notes: list[str] = []
    point = Point(label="balanced", mark="ours", settings=settings)
    run_frontier(source, [point], PROTOCOL, tmp_path / "out", note=notes.append)
    assert any("calibrated on the text docs" in note for note in notes)
