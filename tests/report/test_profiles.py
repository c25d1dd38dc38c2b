"""Energies by hand, and beside integers of the same information."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.record.text import record_text
from spikeconv.report.firing_rate import firing_report
from spikeconv.report.profiles import EnergyProfile, account
from spikeconv.report.work import Shape, Work, assumed_work, recorded_work
from spikeconv.sources.presets import energy_constants, energy_profiles

Fixture = Callable[..., Any]


def profile(name: str) -> EnergyProfile:
    return EnergyProfile.parse(energy_constants(name))


def test_one_linear_by_hand() -> None:
    """8 inputs, 4 outputs, 10 tokens; T' = 8 slots at a rate of 1/4: two spikes an input, half of the counts zero."""
    scheme = SpikeConfig.parse({"bits": "4-1.58"})
    (work,) = assumed_work([Shape("q", 8, 4, scheme, True, 24)], {}, 10, 0.25, 0.5)
    assert work == Work("q", 320, 4, 4, 2, 160, 640, 160, 0, 0, 80, 240)
    found = account([work], profile("horowitz45")).total
    both = 80 * 4.6 + 240 * 0.9  # the encoder and the rotation, which integers need too
    assert found.float_model == pytest.approx(320 * 4.6)
    assert found.integers == pytest.approx(320 * 0.3 + both)
    assert found.sparse_integers == pytest.approx(160 * 0.3 + both)
    assert found.spiking == pytest.approx(640 * 0.1 + both)
    found = account([work], profile("sdllm45")).total
    assert found.integers == pytest.approx(320 * 4.6 / 8) and found.spiking == pytest.approx(640 * 0.9 / 16)
    found = account([work], profile("lemaire45")).total
    memory = 640 * (0.5 * 2.5 + 8 * 2.5)
    assert found.spiking == pytest.approx(640 * 0.1 + memory + 160 * 0.2 + both)
    assert found.integers == pytest.approx(320 * (0.3 + 0.5 * 2.5 + 0.5 * 2.5) + both)
    ramp = SpikeConfig.parse({"bits": "4-1.58", "temporal_code": "ramp"})
    (sent,) = assumed_work([Shape("q", 8, 4, ramp, False, 24)], {"head": 7.0}, 10, 0.25)[:1]
    assert (sent.membrane_additions, sent.encoded, sent.rotation_additions) == (10 * 4 * 8, 0, 0)


def test_break_even_is_where_both_cost_the_same() -> None:
    scheme = SpikeConfig.parse({"bits": "4-1.58", "temporal_code": "binary"})
    shapes = [Shape("q", 64, 32, scheme, True, 0), Shape("down", 128, 64, scheme, True, 0)]
    for name in energy_profiles():
        found = account(assumed_work(shapes, {"head": 1000.0}, 16, 0.3, 0.4), profile(name))
        assert found.break_even is not None
        rate = found.break_even / 4  # slots of the code
        even = account(assumed_work(shapes, {"head": 1000.0}, 16, rate, 0.4), profile(name))
        assert even.total.spiking == pytest.approx(even.total.sparse_integers or 0, rel=1e-9), name
        assert found.wins == (found.spikes_per_input < found.break_even)
        unknown = account(assumed_work(shapes, {}, 16, 0.3), profile(name))
        assert unknown.break_even is None and unknown.wins is None


def test_attention_is_counted_as_asked() -> None:
    scheme = SpikeConfig.parse({"bits": "4-1.58"})
    shapes = [Shape("q", 64, 32, scheme, True, 0)]
    by = {
        kind: {work.part: work for work in assumed_work(shapes, {"attention": 500.0}, 16, 0.25, 0.5, kind)}
        for kind in ("float", "linears", "none")
    }
    assert "attention" not in by["none"] and not by["float"]["attention"].is_spiking
    assert by["linears"]["attention"].accumulations == 1000 and by["linears"]["attention"].nonzero_macs == 250
    whole = SpikeConfig.parse({"bits": "4-4"})
    _, attention = assumed_work([Shape("q", 64, 32, whole, True, 0)], {"attention": 500.0}, 16, 0, attention="linears")
    assert (attention.is_spiking, attention.weight_bits, attention.count_bits) == (False, 4, 4)


def test_a_recording_is_all_of_its_work(converted: Fixture) -> None:
    settings: tuple[dict[str, Any], ...] = (
        {"bits": "4-1.58", "temporal_code": "ramp", "kv_bits": 4, "skip": ["down"]},
        {"bits": "4-4"},
        {"bits": "6-1.58", "temporal_code": "signed-digit"},
    )
    for each in settings:
        path = converted("llama", **each)
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        record = record_text(model, AutoTokenizer.from_pretrained(path), "some text " * 10, tokens=60)
        works, report = recorded_work(record), firing_report(record)
        linears = [work for work in works if work.part in ("q", "k", "v", "o", "gate", "up", "down")]
        assert sum(work.macs for work in linears) == report.total.macs
        assert sum(work.rotation_additions for work in linears) == report.total.rotation_additions
        assert sum(work.membrane_additions for work in linears) == report.total.membrane_additions
        assert sum(work.membrane_shifts for work in linears) == report.total.membrane_shifts
        inputs = {"q": 72, "o": 72, "gate": 72, "down": 100}  # one for each group that encodes
        shared = sum(inputs[role] for role in {work.part for work in linears} & inputs.keys())
        assert sum(work.encoded for work in linears) == 60 * 2 * shared
        if each["bits"] != "4-4":
            assert sum(work.accumulations for work in linears) == report.total.accumulations
        else:
            assert not any(work.is_spiking for work in linears)
        floats = {work.part: work.macs for work in works if work.count_bits == 16 and not work.is_spiking}
        assert floats == report.total.float_macs
        assert {work.part for work in works if work.part in ("keys", "values")} == (
            {"keys", "values"} if "kv_bits" in each else set()
        )


def test_profiles_are_checked(tmp_path: Path) -> None:
    assert {"horowitz45", "lemaire45", "sdllm45", "spikegpt", "spikelm-fp16", "spikelm-fp32", "spikerwkv"} == set(
        energy_profiles()
    )
    for name in energy_profiles():
        assert profile(name).source and profile(name).node == "45 nm"
    own = tmp_path / "own.yaml"
    good = "source: s\nnode: n\nfloat_mac: 1\ninteger_mac: {8: 1}\naccumulate: 1\n"
    own.write_text(good)
    assert profile(str(own)).integer(8, 12) == 1
    for text, words in (
        (good + "accumulate: -1\n", "accumulate"),
        (good.replace("float_mac: 1\n", "float_mac: -0.5\n"), "float_mac"),
        (good.replace("{8: 1}", "{8: -1}"), "integer_mac"),
        (good.replace("{8: 1}", "{}"), "integer_mac"),
        (good + "joules: 4\n", "joules"),
        ("source: s\n", "node"),
        ("- 1\n", "mapping"),
    ):
        own.write_text(text)
        with pytest.raises(SpikeconvError, match=words):
            profile(str(own))
    with pytest.raises(SpikeconvError, match=r"No energy profile 'horowitz46'.*Did you mean horowitz45\?"):
        profile("horowitz46")
