"""`spikeconv report-energy`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spikeconv.cli.console import out, print_json, table
from spikeconv.cli.convert_options import Assignments, Bits, Scheme
from spikeconv.cli.early import given
from spikeconv.cli.measured import installed
from spikeconv.cli.options import AsJson, Checkpoint, Device, Profiles, Quiet, Recorded, SampleText, TrustRemoteCode
from spikeconv.cli.reading import read_spikes
from spikeconv.cli.settings import build_config
from spikeconv.errors import SpikeconvError
from spikeconv.report.profiles import USUAL, Account, EnergyProfile, account
from spikeconv.sources.presets import energy_constants

if TYPE_CHECKING:
    from spikeconv.report.work import Work

__all__ = ["DEFAULT_PROFILES", "profiles_of", "report_energy"]

DEFAULT_PROFILES = ",".join(USUAL)


def report_energy(
    checkpoint: Checkpoint = None,
    recording: Recorded = None,
    model: Annotated[
        str | None,
        typer.Option(help="Without weights: a preset, hub id or config.json, at --rate.", show_default=False),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="With --model: firing rate, spikes of an input over its slots.")
    ] = None,
    zeros: Annotated[
        float | None, typer.Option(help="With --model: share of zero counts.", show_default="not known")
    ] = None,
    bits: Bits = None,
    scheme: Scheme = None,
    assignments: Assignments = None,
    profiles: Profiles = DEFAULT_PROFILES,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the text.")] = 1024,
    text: SampleText = None,
    attention: Annotated[
        Literal["float", "linears", "none"],
        typer.Option(
            help="Products of attention over float keys and values: as they are; as SDLLM's tables take them, as if "
            "they were linears; or not counted."
        ),
    ] = "float",
    head: Annotated[bool, typer.Option("--head/--no-head", help="Count the output head.")] = True,
    gqa: Annotated[
        bool, typer.Option("--gqa/--no-gqa", help="With --model: count the keys and values that there are.")
    ] = True,
    parts: Annotated[bool, typer.Option("--parts", help="A row for each role.")] = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Operations and energy by published models, beside integers of the same widths, dense and skipping zeros.

    Example: [cyan]spikeconv report-energy --parts[/]

    [cyan]spikeconv report-energy --model llama2-7b --rate 0.216 --bits 4-1.58 --profile sdllm45 --attention linears
    --no-head[/]
    """
    settings = {"--rate": rate, "--zeros": zeros, "--bits": bits, "--scheme": scheme, "--set": assignments or None}
    if model is None and (named := given(settings)):
        raise SpikeconvError(f"{named[0]} is for --model; of a checkpoint spikes are counted.")
    if model is not None and given({"CHECKPOINT": checkpoint, "--text": text, "--record": recording}):
        raise SpikeconvError("--model has no weights to read a text with; leave CHECKPOINT, --text and --record out.")
    if model is not None and rate is None:
        raise SpikeconvError("--model needs --rate, spikes of an input over its slots, as 0.216.")
    for name, value in (("--rate", rate), ("--zeros", zeros)):
        if value is not None and not 0 <= value <= 1:
            raise SpikeconvError(f"{name} is a share from 0 to 1, not {value}.")

    loaded = profiles_of(profiles)
    if model is not None and rate is not None:
        config = build_config(scheme, {"bits": bits}, assignments or [], [], [])

        from spikeconv.comparison.outline import outlined_work
        from spikeconv.sources.outline import open_or_outline

        source = open_or_outline(model, trust_remote_code=trust_remote_code)
        works = outlined_work(source, config, [tokens], rate, zeros, attention, gqa)
        what = f"{model}, {config.bits}, firing rate {rate:g} assumed"
        about: dict[str, Any] = {"source": model, "settings": config.model_dump(mode="json"), "versions": installed()}
        about |= {"tokens": tokens, "rate": rate, "zeros": zeros}
    else:
        options: Any = {"device": device, "trust_remote_code": trust_remote_code, "quiet": quiet}
        read = read_spikes(recording, checkpoint, text, tokens, **options)

        from spikeconv.report.work import recorded_work

        works, what, tokens = recorded_work(read.record, attention), read.name, read.record.tokens
        about = read.about
    works = [work for work in works if head or work.part != "head"]
    accounts = {name: account(works, profile) for name, profile in loaded.items()}
    if as_json:
        found = {
            name: {
                "source": loaded[name].source,
                "node": loaded[name].node,
                "lines": [asdict(line) for line in each.lines],
                "total": asdict(each.total),
                "break_even": each.break_even,
            }
            for name, each in accounts.items()
        }
        how = {**about, "attention": attention, "head": head, "gqa": gqa}
        operations = [asdict(work) for work in works]
        print_json({"of": what, "tokens": tokens, "operations": operations, "profiles": found, "measured": how})
        return
    show_operations(works, what, tokens)
    for name, each in accounts.items():
        show_account(f"{name}: {loaded[name].source}; {loaded[name].node}", each, parts, tokens)


def profiles_of(names: str) -> dict[str, EnergyProfile]:
    """The energy profiles of `--profile`, by name.

    Raises:
        SpikeconvError: there is none, no such one, two of one name, or one that cannot be.
    """
    found: dict[str, EnergyProfile] = {}
    for name in (name.strip() for name in names.split(",") if name.strip()):
        if Path(name).stem in found:
            raise SpikeconvError(f"--profile names {Path(name).stem} twice.")
        found[Path(name).stem] = EnergyProfile.parse(energy_constants(name))
    if not found:
        raise SpikeconvError(f"--profile names none; give for example {DEFAULT_PROFILES}.")
    return found


def show_operations(works: "list[Work]", what: str, tokens: int) -> None:
    """Raw counts first: they are facts."""
    columns = ("G MACs", "G accumulations", "per MAC", "non-zero", "G membrane", "M encoded", "G rotation")
    rows = table(f"{what}: operations over {tokens:,} tokens", "part", *columns)
    for work in works:
        membrane = work.membrane_additions + work.membrane_shifts
        rows.add_row(
            work.part,
            f"{work.macs / 1e9:.3f}",
            f"{work.accumulations / 1e9:.3f}" if work.is_spiking else "–",
            f"{work.accumulations / work.macs:.3f}" if work.is_spiking and work.macs else "–",
            "–" if work.nonzero_macs is None or not work.macs else f"{work.nonzero_macs / work.macs:.1%}",
            f"{membrane / 1e9:.3f}" if membrane else "–",
            f"{work.encoded / 1e6:.2f}" if work.encoded else "–",
            f"{work.rotation_additions / 1e9:.3f}" if work.rotation_additions else "–",
        )
    out.show(rows)


def show_account(title: str, found: Account, parts: bool, tokens: int) -> None:
    """Joules of one profile, spikes beside integers, and the break-even."""
    rows = table(f"\n{title}", "part", "float", "integers", "skipping zeros", "spikes")
    for line in (*(found.lines if parts else ()), found.total):
        sparse = "–" if line.sparse_integers is None else _joules(line.sparse_integers)
        rows.add_row(line.part, _joules(line.float_model), _joules(line.integers), sparse, _joules(line.spiking))
    out.show(rows)
    terms = ", ".join(f"{name} {_joules(value)}" for name, value in found.total.terms.items() if value)
    out.print("  spikes: {terms}; {each} a token", terms=terms, each=_joules(found.total.spiking / tokens))
    if found.break_even is not None:
        out.print(
            "  break-even with integers that skip zeros: {even:.2f} spikes an input; here "
            "{found.spikes_per_input:.2f}: spikes cost [number]{side}[/]",
            even=found.break_even,
            found=found,
            side="less" if found.wins else "more",
        )


def _joules(picojoules: float) -> str:
    for unit, size in (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6)):
        if picojoules >= size:
            return f"{picojoules / size:.3g} {unit}"
    return f"{picojoules:.3g} pJ"
