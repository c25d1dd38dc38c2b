"""From what a recorder counted to records of plain values."""

from typing import Any

from spikeconv.families import linears_of
from spikeconv.nn import attention_codes, spike_linears
from spikeconv.record.record import CacheRecord, LayerRecord
from spikeconv.record.recorder import Recorder

__all__ = ["cache_records", "layer_records"]


def layer_records(model: Any, recorder: Recorder) -> list[LayerRecord]:
    """Every converted linear that saw an input, in order.

    Args:
        model: a converted model of a known family, whose spikes were recorded.
        recorder: what recorded them.
    """
    named = linears_of(model)
    records, seen = [], set()
    for name, linear in spike_linears(model).items():
        counted, encoder = recorder.statistics[name], linear.encoder
        if not counted.inputs:
            continue
        first = id(encoder) not in seen
        seen.add(id(encoder))
        records.append(
            LayerRecord(
                name=name,
                role=named[name].role,
                in_features=linear.in_features,
                out_features=linear.out_features,
                scheme=linear.scheme,
                tokens=counted.tokens,
                inputs=counted.inputs,
                planes=counted.planes,
                histogram=counted.counts,
                weight_bytes=linear.weight.nbytes,
                rotation_additions=encoder.streams * encoder.rotation.additions() if encoder.rotation and first else 0,
                encodes=first,
            )
        )
    return records


def cache_records(model: Any, recorder: Recorder) -> dict[str, CacheRecord]:
    """Keys and values by `k` and `v`; empty where those are float."""
    if not recorder.cache:
        return {}
    code = next(iter(attention_codes(model).values()))
    return {
        kind: CacheRecord(
            scheme=code.scheme,
            states=counted.inputs // code.head_dim,
            histogram=counted.counts,
            head_dim=code.head_dim,
            group=code.group,
            row_bytes=code.row_bytes,
        )
        for kind, counted in recorder.cache.items()
    }
