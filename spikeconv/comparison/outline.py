"""The work of a model without weights: shapes of its linears, from its configuration, at an assumed rate."""

from collections import Counter
from collections.abc import Iterable

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.report.work import Attention, Shape, Work, assumed_work, without_gqa
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config

__all__ = ["outlined_work"]


def outlined_work(
    source: Source,
    config: SpikeConfig,
    sequences: Iterable[int],
    rate: float,
    zeros: float | None = None,
    attention: Attention = "float",
    gqa: bool = True,
) -> list[Work]:
    """The work of a source, converted by some settings, at a firing rate.

    Args:
        source: weights are not read.
        config: the settings.
        sequences: tokens of each.
        rate, zeros, attention: as for `assumed_work`.
        gqa: count the heads of keys and values that there are, and not as many as of queries.

    Raises:
        SpikeconvError: the source cannot be converted like that.
    """
    plan, lengths = make_plan(source, config), list(sequences)
    encoders = {id(job) for job in plan.encoders}
    shapes = [
        Shape(
            job.linear.role, job.in_features, job.out_features, job.scheme, id(job) in encoders, job.rotation_additions
        )
        for job in plan.jobs
    ]
    floats: Counter[str] = Counter()
    for length in lengths:
        floats.update(plan.family.float_macs(hf_config(source.config), length))
    return assumed_work(shapes if gqa else without_gqa(shapes), floats, sum(lengths), rate, zeros, attention)
