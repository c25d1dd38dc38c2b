"""The few numbers that sum a model up, each with a sentence that says what it is."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from spikeconv.pages.words import count, number, share
from spikeconv.report.model import ModelReport, Priced

__all__ = ["Card", "Fact", "Note", "Verdict", "cards", "facts", "settings_of", "verdicts"]


class Card(NamedTuple):
    """A number under its name, and what it means."""

    name: str
    value: str
    meaning: str


class Fact(NamedTuple):
    """Something that was measured with."""

    name: str
    value: str


class Note(NamedTuple):
    """Something to know, and the command that changes it, if there is one."""

    words: str
    command: str = ""


class Verdict(NamedTuple):
    """What one energy profile says.

    Attributes:
        profile, source, node: of the profile.
        dense, sparse: energy of spikes over that of integers, dense and without zeros; of the whole model.
        converted: the latter, of the converted products alone.
        even, here: break-even and measured, in spikes of an input.
        side: what follows.
    """

    profile: str
    source: str
    node: str
    dense: str
    sparse: str
    converted: str
    even: str
    here: str
    side: str


def facts(report: ModelReport) -> list[Fact]:
    """What was measured, on what, with what."""
    checkpoint, text = _mapping(report.about.get("checkpoint")), _mapping(report.about.get("text"))
    base, versions = _mapping(checkpoint.get("base")), _mapping(report.about.get("versions"))
    totals = report.totals
    found = [
        Fact("checkpoint", _text(checkpoint.get("name"))),
        Fact("SHA-256 of weights and settings", _text(checkpoint.get("sha256"))),
        Fact("made from", _text(base.get("name"))),
        Fact("settings", _settings(report)),
        Fact("text", _text(text.get("what"))),
        Fact("its SHA-256", _text(text.get("sha256"))),
        Fact("read", f"{totals.tokens:,} tokens in {totals.sequences:,} sequence{'s' * (totals.sequences != 1)}"),
        Fact("versions", ", ".join(f"{name} {value}" for name, value in versions.items())),
    ]
    return [fact for fact in found if fact.value]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:400]


def _settings(report: ModelReport) -> str:
    """What most of the linears have, in a line."""
    if not report.inputs:
        return ""
    schemes = [each.record.scheme for each in report.inputs]
    scheme = max(schemes, key=schemes.count)
    words = [f"{'float' if scheme.weights.bits == 16 else f'{scheme.weights.bits}-bit'} weights"]
    words.append(f"{scheme.inputs.codec} inputs ({scheme.inputs.name})")
    words.append(f"{scheme.code.kind} code, {report.totals.slots} slots")
    words.append("not rotated" if scheme.rotation.is_none else f"{scheme.rotation.kind}, seed {scheme.rotation.seed}")
    words += [f"balance {scheme.balance}"] if scheme.balance != "none" else []
    words += [f"keys and values as {_kv(report)} counts"] if report.firing.cache else []
    others = len(schemes) - schemes.count(scheme)
    return ", ".join(words) + (f"; {others} of {len(schemes)} encoders differ" if others else "")


def _kv(report: ModelReport) -> str:
    return "/".join(f"{work.count_bits}-bit" for work in report.works if work.part == "keys") or "integer"


def settings_of(report: ModelReport) -> list[Fact]:
    """All settings of the checkpoint by their paths."""
    settings = _mapping(_mapping(report.about.get("checkpoint")).get("settings"))
    return [Fact(path, value) for path, value in _flat(settings, "") if not path.startswith("zero_share")]


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _flat(each, f"{path}.{name}" if path else str(name))
    elif value not in (None, [], {}):
        yield path, _text(value)


def cards(report: ModelReport) -> list[Card]:
    """The totals."""
    totals, cache = report.totals, report.firing.total
    if not report.inputs and report.firing.neuron_rate is None and not report.firing.cache:
        return []
    found = []
    if report.inputs:
        digits = all(each.record.scheme.inputs.codec == "multihead" for each in report.inputs)
        found.append(Card("spikes of an input", number(totals.spikes_per_input), DIGITS if digits else SPIKES))
        if totals.spikes is None:
            found[-1] = Card("spikes of an input", "none", WHOLE)
        else:
            found.append(Card("firing rate", number(totals.firing_rate), DIGIT_RATE if digits else RATE))
            found.append(Card("time slots", f"{totals.slots}", DIGIT_SLOTS if digits else SLOTS))
        found.append(Card("zero counts", share(totals.zero_share), ZEROS))
    if totals.additions_per_mac is not None:
        found.append(Card("additions for a multiplication", number(totals.additions_per_mac), ADDITIONS))
        found.append(Card("multiply-accumulates replaced", count(totals.macs), _replaced(report)))
    if cache.cache_spikes_per_input is not None:
        value = number(cache.cache_spikes_per_input)
        found.append(
            Card(
                "spikes of a key or value", value, f"Keys and values are counts too, sent in {cache.cache_slots} slots."
            )
        )
    if report.firing.neuron_rate is not None:
        found.append(Card("rate of the model's own neurons", number(report.firing.neuron_rate), NEURONS))
    return found


SPIKES = "An input of a linear becomes a whole number, its count, and the count a few spikes; this many in the mean, "
SPIKES += "each linear weighted by its multiplications."
DIGITS = "An input of a linear becomes a few decimal digits, and the digits this many spikes in the mean."
WHOLE = "Counts are sent whole here, as integers: products stay products."
RATE = "Spikes of an input divided by the time slots in which it could have sent one."
DIGIT_RATE = "Digits that are not zero, divided by all of them (SpikeRWKV, eq. 5)."
SLOTS = "Steps that the slowest linear needs to receive a count: its latency."
DIGIT_SLOTS = "Digits of an input, times its time steps, each as one graded spike."
ZEROS = "Inputs that send nothing. An integer accelerator can skip them as well."
ADDITIONS = "What stands in the place of one multiply-accumulate of the float model: a spike adds a column of weights, "
ADDITIONS += "a slot may add or shift membranes. Below, energies say whether that is cheaper."
NEURONS = "Spikes of a neuron of the model itself in a token."


def _replaced(report: ModelReport) -> str:
    totals = report.totals
    everything = totals.macs + totals.float_macs
    kept = f"{count(totals.float_macs)} stay in floating point" if totals.float_macs else "none stay in floating point"
    of = f", {share(totals.macs / everything)} of all were replaced" if everything else ""
    return f"Of the {totals.tokens:,} tokens; {kept}{of}. Rotations add {count(totals.rotation_additions)} additions."


def verdicts(report: ModelReport) -> list[Verdict]:
    """What every profile says."""
    return [_verdict(name, each) for name, each in report.energy.items() if each.converted is not None]


def _verdict(name: str, priced: Priced) -> Verdict:
    whole, converted = priced.whole, priced.converted
    assert converted is not None
    even, here = converted.break_even, converted.spikes_per_input
    if even is None:
        side = "not known: the share of zeros is missing"
    elif even <= 0:
        side = "spikes cost more however few they are: what does not depend on them costs more than the integers"
    elif converted.wins:
        side = f"spikes cost less: {number(here)} are fewer than {number(even)}"
    else:
        side = f"spikes cost more: {number(here)} are not fewer than {number(even)}"
    return Verdict(
        name,
        priced.source,
        priced.node,
        _ratio(whole.total.spiking, whole.total.integers),
        _ratio(whole.total.spiking, whole.total.sparse_integers),
        _ratio(converted.total.spiking, converted.total.sparse_integers),
        number(even),
        number(here),
        side,
    )


def _ratio(ours: float, theirs: float | None) -> str:
    return f"{number(ours / theirs)} ×" if theirs else "–"
