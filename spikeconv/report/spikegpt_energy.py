"""SpikeGPT's table 1, by its formulas, beside what its model really does.

    linears    R · E_AC · ops      ops = 3 T d² (r, k, v), T d², 4 T d², T d² (feed-forward)
    WKV        7 T d · E_MAC
    GPT's      the same ops · E_MAC; attention 2 T² · E_MAC (as its value was computed; the printed formula has 2 T² d),
               scale T² · E_MAC, softmax 2 T² · E_MAC

That takes all inputs of linears for spikes of rate R, leaves the output projection out and gives feed-forward layer 3
(of 4 d inputs) T d². In the released model no input of a linear is a spike.
"""

from pydantic import Field

from spikeconv.config import Options
from spikeconv.report.firing_rate import FiringReport

__all__ = ["TableOne", "corrected", "table_one"]


class TableOne(Options):
    """Constants of an energy table.

    Attributes:
        mac_pj, ac_pj: picojoules of a multiply-accumulate and of an accumulate.
        tokens, hidden_size, rate: T, d and R of the table's model.
    """

    mac_pj: float = Field(gt=0)
    ac_pj: float = Field(gt=0)
    tokens: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    rate: float = Field(gt=0, le=1)


def table_one(profile: TableOne) -> dict[str, tuple[float, float]]:
    """Picojoules of one block by part, of GPT and of SpikeGPT, as table 1 has them."""
    tokens, hidden, mac = profile.tokens, profile.hidden_size, profile.mac_pj
    spike, square = profile.rate * profile.ac_pj, tokens * hidden**2
    linears = {"r, k, v": 3 * square, "ffn 1": square, "ffn 2": 4 * square, "ffn 3": square}
    rows = {name: (ops * mac, ops * spike) for name, ops in linears.items()}
    attention = {"attention": (2 * tokens**2 * mac, 7 * tokens * hidden * mac), "scale": (tokens**2 * mac, 0.0)}
    return {**rows, **attention, "softmax": (2 * tokens**2 * mac, 0.0)}


def corrected(report: FiringReport, profile: TableOne) -> dict[str, float]:
    """Picojoules of a recording with a table's constants, everything counted: all linears of all blocks, and the head.

    A converted linear costs an accumulate for each spike and output, its rotation one for each addition; what stays
    in floating point a multiply-accumulate.
    """
    roles = dict.fromkeys(layer.role for layer in report.layers)
    result = {
        role: sum(layer.accumulations for layer in report.layers if layer.role == role) * profile.ac_pj
        for role in roles
    }
    if report.layers:
        result["rotations"] = report.total.rotation_additions * profile.ac_pj
    return result | {name: macs * profile.mac_pj for name, macs in report.total.float_macs.items()}
