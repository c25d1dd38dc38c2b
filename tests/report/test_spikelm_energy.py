"""SpikeLM's table 5 follows from its formula, but for one cell; its energies imply the rates that they stand for."""

from spikeconv.report.spikelm_energy import SpikeLmProfile, table_five
from spikeconv.sources.presets import energy_constants

SPIKES = {  # T · r, from the paper's energies; its text has rates of .33 (k=2) and .17 (k=4)
    "LIF-BERT, T=4": 4 * 0.198,
    "SpikeLM, T=1": 0.396,
    "SpikeLM, T=4": 4 * 0.3416,
    "SpikeLM, k=3, T=4": 4 * 0.2585,
    "SpikeLM, k=4, T=4": 4 * 0.184,
    "SpikeLM, α learned, T=4": 4 * 0.592,
    "SpikeLM, α = 1, T=4": 4 * 0.430,
}


def test_the_printed_energies_come_out() -> None:
    profile = SpikeLmProfile.parse(energy_constants("spikelm-table5"))
    assert abs(profile.macs / 1e9 - 11.1736) < 1e-4  # G, as the energies of BERT imply
    bert, *models = table_five(profile)
    assert bert.printed_fp32 is not None and abs(bert.fp32 - bert.printed_fp32) <= 0.001 * bert.fp32
    assert bert.printed_fp16 is not None and abs(bert.fp16 / bert.printed_fp16 - 1.102) <= 0.001  # a tenth too little
    assert {row.name for row in models} == SPIKES.keys()
    for row in models:
        assert row.spikes_per_input is not None
        assert abs(row.spikes_per_input - SPIKES[row.name]) <= 0.004 * SPIKES[row.name], row.name
        if row.printed_fp16 is not None:  # the same spikes: 4/9 of it
            assert abs(row.fp16 - row.printed_fp16) <= 0.002 * row.printed_fp16, row.name
