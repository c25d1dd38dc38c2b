"""SpikeGPT's table 1 follows from its formulas and constants, as far as it does."""

from spikeconv.report.spikegpt_energy import TableOne, table_one
from spikeconv.sources.presets import energy_constants

PRINTED = {
    "r, k, v": (1.09e10, 3.25e8),
    "attention": (8.50e7, 4.95e7),
    "scale": (4.25e7, 0),
    "softmax": (8.50e7, 0),
    "ffn 1": (3.62e9, 1.09e8),
    "ffn 2": (1.45e10, 4.35e8),
    "ffn 3": (3.62e9, 1.09e8),
}
OVERALL = (3.29e10, 1.02e9)


def test_the_printed_energies_come_out() -> None:
    found = table_one(TableOne.parse(energy_constants("spikegpt-table1")))
    assert found.keys() == PRINTED.keys()
    for part, printed in PRINTED.items():
        for value, wanted in zip(found[part], printed, strict=True):
            assert abs(value - wanted) <= 0.005 * wanted, part
    for model, wanted in enumerate(OVERALL):
        assert abs(sum(row[model] for row in found.values()) - wanted) <= 0.008 * wanted
