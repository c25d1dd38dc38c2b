"""What a page says of a model: the same numbers, looked at from several sides, and exact where they can be."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import spike_linears
from spikeconv.record.alternatives import ALTERNATIVES, LOWEST, alternative_counts
from spikeconv.record.file import Recording, read_recording, write_recording
from spikeconv.record.session import record_texts, some_trains
from spikeconv.report.distributions import distribution
from spikeconv.report.firing_rate import firing_report
from spikeconv.report.model import model_report
from spikeconv.report.profiles import EnergyProfile
from spikeconv.sources.presets import energy_constants

Fixture = Callable[..., Any]
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {"bits": "4-1.58", "kv_bits": 4}),
    ("llama", {"bits": "5-1.58", "count_scale": "rms", "temporal_code": "ramp", "slots": 24}),
    ("rwkv", {"bits": "4-1"}),
    ("bart", {"bits": "4-1.58"}),
    ("qwen2", {"codec": "multihead"}),
    ("llama", {"bits": "4-4"}),
)


def test_all_sides_show_the_same_spikes(converted: Fixture, tmp_path: Path) -> None:
    profiles = {name: EnergyProfile.parse(energy_constants(name)) for name in ("horowitz45", "lemaire45")}
    for index, (family, settings) in enumerate(CASES):
        loaded = load_checkpoint(converted(family, **settings), device="cpu")
        chosen = some_trains(loaded.model)
        record, arrays = record_texts(loaded, "some words, and more of them. " * 9, 130, (chosen, 20))
        write_recording(tmp_path / str(index), Recording(record, {"checkpoint": None, "text": None}, arrays))
        recording = read_recording(tmp_path / str(index))
        found, firing = model_report(recording, profiles), firing_report(record)
        encoders = {id(linear.encoder): name for name, linear in reversed(spike_linears(loaded.model).items())}
        assert sorted(each.name for each in found.inputs) == sorted(encoders.values())
        assert sorted(name for each in found.inputs for name in each.members) == sorted(spike_linears(loaded.model))
        by_name = {layer.name: layer for layer in firing.layers}
        assert found.rates is not None and len(found.inputs) == sum(
            value is not None for row in found.rates.values for value in row
        )
        shown = sorted(value for row in found.rates.values for value in row if value is not None)
        rates = [by_name[each.name].firing_rate for each in found.inputs]
        whole = [by_name[each.name].mean_count for each in found.inputs]
        assert shown == pytest.approx(sorted(rate for rate in rates if rate is not None) or sorted(whole))

        for roles, counts in found.counts.items():
            assert sum(counts.shares.values()) == pytest.approx(1), roles
            assert sum(counts.gaussian.values()) <= 1 + 1e-12
        assert {each.roles for each in found.encoders} <= {each.roles for each in found.inputs}
        if spiking := [work for work in found.works if work.is_spiking]:
            macs, sent = sum(work.macs for work in spiking), sum(work.accumulations for work in spiking)
            membranes = sum(work.membrane_additions + work.membrane_shifts for work in spiking)
            assert found.totals.additions_per_mac == pytest.approx((sent + membranes) / macs)
            assert found.totals.spikes == sum(each.record.spikes for each in found.inputs)
        for code in found.codes:
            assert sum(code.slots) == pytest.approx(sum(size * share for size, share in code.bursts.items()))
            assert sum(code.bursts.values()) == pytest.approx(1)
            if code.is_own:
                inputs = sum(each.record.inputs for each in found.inputs)
                assert sum(code.slots) == pytest.approx(found.totals.spikes / inputs)
        for raster in found.rasters:
            assert raster.train.shape[1] == 20 == len(raster.tokens)
        for priced in found.energy.values():
            lines = sum(line.spiking for line in priced.whole.lines)
            assert priced.whole.total.spiking == pytest.approx(lines)
            assert (priced.converted is None) == (found.totals.additions_per_mac is None)


def test_gaussians_and_sdllms_encoders() -> None:
    u = torch.randn(400, 512)
    rounded, times = (2.3 * u - 0.7).round().int().unique(return_counts=True)
    found = distribution(dict(zip(rounded.tolist(), times.tolist(), strict=True)))
    assert found is not None and found.mean == pytest.approx(-0.7, abs=0.02)
    for count, share in found.shares.items():
        assert abs(share - found.gaussian[count]) < 4 * math.sqrt(max(share, 1e-5) / u.numel()) + 3e-3, count
    assert distribution({}) is None and distribution({2: 5}).gaussian == {}  # type: ignore[union-attr]

    counts = alternative_counts(u)
    assert counts.shape == (3, 16) and (counts.sum(1) == u.numel()).all()
    for row, kind in zip(counts.tolist(), ALTERNATIVES, strict=True):
        values = np.arange(LOWEST[kind], LOWEST[kind] + 16)
        if kind == "asymmetric":
            low, high = 0.9 * u.amin(-1, keepdim=True), 0.9 * u.amax(-1, keepdim=True)
            expected = (u / ((high - low) / 15)).round() - (low / ((high - low) / 15)).round()
        else:
            kept = u if kind == "symmetric" else u * (u > u.flatten().kthvalue(u.numel() // 2).values)
            expected = (kept / (0.9 * kept.abs().amax(-1, keepdim=True) / 7)).round()
        expected = expected.clamp(int(values[0]), int(values[-1])).int()
        others = torch.tensor([(expected == value).sum() for value in values])
        assert (torch.tensor(row) - others).abs().sum() <= 1e-4 * u.numel(), kind  # a half may round either way
    means = [
        sum(abs(count) * times for count, times in enumerate(row, LOWEST[kind])) / u.numel()
        for row, kind in zip(counts.tolist(), ALTERNATIVES, strict=True)
    ]
    assert means[0] == pytest.approx(7.5, abs=0.1)  # SDLLM, figure 6: 7.52 without sign, 1.78 with one
    assert 2 * means[2] == pytest.approx(means[1], rel=0.1)  # half of them are cut off
