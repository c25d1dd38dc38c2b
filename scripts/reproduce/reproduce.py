#!/usr/bin/env python
"""Every energy and operation count of the papers that follows from a formula, by this package's functions.

    python scripts/reproduce/reproduce.py            # docs/paper-tables.md, on stdout
    python scripts/reproduce/reproduce.py --cells    # every cell: printed, ours, difference

Needs no weights: shapes come from the configurations of the presets.
"""

import argparse
import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from transformers import PretrainedConfig

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.report.energy import spikerwkv
from spikeconv.report.operations import kappa, linear_macs
from spikeconv.report.profiles import EnergyProfile, account
from spikeconv.report.spikegpt_energy import TableOne, table_one
from spikeconv.report.spikelm_energy import SpikeLmProfile, table_five
from spikeconv.report.work import Shape, assumed_work, without_gqa
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.outline import open_or_outline
from spikeconv.sources.presets import energy_constants

TABLES = Path(__file__).parent / "tables"
TOKENS = 1024
NEAR = 0.01
"""Relative: what is nearer is the paper's number."""


class Model(NamedTuple):
    """How SDLLM counts a model: its preset, and whether attention and grouped queries are taken as they are."""

    preset: str
    attention: bool
    gqa: bool


MODELS = {
    "LLaMA2-7B": Model("llama2-7b", True, True),
    "LLaMA2-13B": Model("llama2-13b", True, True),
    "LLaMA3-8B": Model("llama3-8b", False, False),
    "Qwen2.5-14B": Model("qwen2.5-14b", False, True),
}
SPIKELLM = 1.2
"""What SDLLM charges SpikeLLM for: QuaRot times mean T."""


class Cell(NamedTuple):
    """One number."""

    table: str
    row: str
    column: str
    printed: float
    ours: float
    digits: int
    from_printed: float | None = None
    """What another printed number of the row gives."""

    @property
    def error(self) -> float:
        """Relative to the printed number."""
        return (self.ours - self.printed) / self.printed

    @property
    def verdict(self) -> str:
        """`near`, `printed digit`, or `no`."""
        if abs(self.error) <= NEAR:
            return "near"
        others = [self.ours] if self.from_printed is None else [self.ours, self.from_printed]
        return "printed digit" if self.printed in [round(other, self.digits) for other in others] else "no"


def rows(name: str) -> Iterator[dict[str, str]]:
    with (TABLES / f"{name}.csv").open(encoding="utf-8") as file:
        yield from csv.DictReader(file)


def cell(table: str, row: str, column: str, printed: str, ours: float) -> Cell:
    return Cell(table, row, column, float(printed), ours, len(printed.partition(".")[2]))


def sdllm() -> Iterator[Cell]:
    """FLOPs and joules of every model and setting (equations of section 5, appendix A)."""
    profile = EnergyProfile.parse(energy_constants("sdllm45"))
    for row in rows("sdllm_flops_power"):
        table, _, what = row["table"].partition(" ")
        only_qkv = table == "T3"
        energy, each = joules(row, profile, only_qkv)
        name = f"{row['model']} {row['method']} {row['bit']}" + (f" T'={row['T_virtual']}" if row["T_virtual"] else "")
        title = f"SDLLM {table} ({what.strip()})"
        operations = cell(title, name, "T FLOPs", row["flops_T_printed"], energy / each)
        rounded = None if operations.verdict == "no" else operations.printed * each
        yield operations
        yield cell(title, name, "J", row["power_J_printed"], energy)._replace(from_printed=rounded)


@cache
def planned(preset: str, bits: str) -> tuple[Plan, PretrainedConfig]:
    """The plan of a conversion, from the preset's configuration."""
    opened = open_or_outline(preset)
    return make_plan(opened, SpikeConfig.parse({"bits": bits})), hf_config(opened.config)


def joules(row: dict[str, str], profile: EnergyProfile, only_qkv: bool) -> tuple[float, float]:
    """J of a row, and J of 10^12 operations."""
    model = MODELS[row["model"]]
    spiking = "." in row["bit"] or row["bit"].endswith("-1")
    bits = row["bit"] if row["bit"] != "-" else "16-16"
    plan, described = planned(model.preset, bits)
    shapes = [
        Shape(job.linear.role, job.in_features, job.out_features, job.scheme)
        for job in plan.jobs
        if not only_qkv or job.linear.role in ("q", "k", "v")
    ]
    floats = plan.family.float_macs(described, TOKENS)
    floats = {"attention": floats["attention"]} if model.attention and not only_qkv else {}
    rate, slots = float(row["rate"] or 0), float(row["T_virtual"] or 1)
    own = plan.config.inputs.virtual_steps
    work = assumed_work(
        shapes if model.gqa else without_gqa(shapes),
        floats,
        TOKENS,
        rate * slots / own if spiking else 0.0,
        attention="linears",
    )
    found = account(work, profile).total
    if spiking:
        return found.spiking * 1e-12, profile.accumulate
    if row["bit"] == "-":
        return found.float_model * 1e-12, profile.float_mac
    return found.integers * 1e-12 * (SPIKELLM if row["method"] == "SpikeLLM" else 1), profile.float_mac


def sdllm_layers() -> Iterator[Cell]:
    """Table A1: one layer of LLaMA2-7B. Its block "4-1" has the numbers of 4-1.58 at T' = 16."""
    sizes = {"gate_proj": (4096, 11008), "up_proj": (4096, 11008), "down_proj": (11008, 4096)}
    for row in rows("sdllm_tableA1"):
        bits = int(row["section"][0])
        macs = linear_macs(TOKENS, *sizes.get(row["layer"], (4096, 4096)))
        flops = macs * kappa(bits, 2) * float(row["rate"]) * float(row["T_virtual"]) / 1e9
        name = f"{row['section']} {row['layer']} T'={row['T_virtual']}"
        yield cell("SDLLM TA1 (one layer)", name, "G FLOPs", row["gflops_printed"], flops)
        yield cell("SDLLM TA1 (one layer)", name, "mJ", row["power_mJ_printed"], flops * 0.9)


def spikerwkv_table() -> Iterator[Cell]:
    """Table 3: pJ of one output, and how many times less; the spikes are those that its energies stand for."""
    for row in rows("spikerwkv_table3_energy"):
        yield cell("SpikeRWKV T3", row["dataset"], "ANN pJ", row["ann_printed"], spikerwkv(2560, 0).ann)
        for layers in "345":
            found = spikerwkv(2560, float(row[f"L{layers}_events_per_input"]))
            name = f"{row['dataset']} {layers}L"
            yield cell("SpikeRWKV T3", name, "pJ", row[f"L{layers}"], found.snn)
            yield cell("SpikeRWKV T3", name, "EE", row[f"EE{layers}_printed"], found.efficiency)


def spikegpt_table() -> Iterator[Cell]:
    """Table 1: pJ of one block. The formula printed for f(Q, K, V) has a factor d more than its number."""
    found = table_one(TableOne.parse(energy_constants("spikegpt-table1")))
    names = ("r, k, v", "attention", "scale", "softmax", "ffn 1", "ffn 2", "ffn 3")
    printed = list(rows("spikegpt_table1_energy"))
    for name, row in zip(names, printed, strict=False):
        for column, index in (("gpt", 0), ("spikegpt", 1)):
            if row[f"{column}_printed_pJ"]:
                yield cell("SpikeGPT T1", name, column, row[f"{column}_printed_pJ"], found[name][index])
    for column, index in (("gpt", 0), ("spikegpt", 1)):
        total = sum(each[index] for each in found.values())
        yield cell("SpikeGPT T1", "overall", column, printed[len(names)][f"{column}_printed_pJ"], total)


def spikelm_table() -> Iterator[Cell]:
    """Tables 5 and 7: mJ of one sentence. The rates are those that the printed float32 energies stand for."""
    for row in table_five(SpikeLmProfile.parse(energy_constants("spikelm-table5"))):
        for column, printed, ours in (("fp32 mJ", row.printed_fp32, row.fp32), ("fp16 mJ", row.printed_fp16, row.fp16)):
            if printed is not None and (column != "fp32 mJ" or row.spikes_per_input is None):
                yield cell("SpikeLM T5, T7", row.name, column, str(printed), ours)


def all_cells() -> list[Cell]:
    """Of all tables."""
    return [*sdllm(), *sdllm_layers(), *spikerwkv_table(), *spikegpt_table(), *spikelm_table()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", action="store_true", help="every cell, not the page")
    cells = all_cells()
    if parser.parse_args().cells:
        for each in cells:
            print(
                f"{each.table}\t{each.row}\t{each.column}\t{each.printed:g}\t{each.ours:.5g}\t{each.error:+.2%}\t{each.verdict}"
            )
        return
    print((Path(__file__).parent / "page.md").read_text(encoding="utf-8").rstrip())
    print("\n| table | cells | within 1 % | to the printed digit | not |\n|---|---|---|---|---|")
    for table in dict.fromkeys(each.table for each in cells):
        verdicts = [each.verdict for each in cells if each.table == table]
        counts = (verdicts.count(verdict) for verdict in ("near", "printed digit", "no"))
        print(f"| {table} | {len(verdicts)} | {' | '.join(map(str, counts))} |")
    print("\n| does not come out | | printed | ours |\n|---|---|---|---|")
    for each in cells:
        if each.verdict == "no":
            print(f"| {each.table}: {each.row} | {each.column} | {each.printed:g} | {each.ours:.4g} |")


if __name__ == "__main__":
    main()
