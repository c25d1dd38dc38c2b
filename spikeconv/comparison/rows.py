"""The rows of a comparison: what each column is, sends, costs and knows. Pure functions of columns."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from spikeconv.comparison.columns import Column, different_models, text_of
from spikeconv.comparison.table import NOTHING, Cell, Table, number
from spikeconv.config import FLOAT_BITS, CountInputs, SpikeConfig
from spikeconv.evaluate.stored import PERPLEXITY, Stored
from spikeconv.report.firing_rate import TotalFiring, firing_report
from spikeconv.report.profiles import EnergyProfile, account
from spikeconv.report.work import Work

__all__ = ["make_table", "question_of", "score_of"]

T = TypeVar("T")

MODEL, SPIKES, OPERATIONS, ENERGY, QUALITY, SPEED = "Model", "Spikes", "Operations", "Energy", "Quality", "Speed"


def make_table(columns: Sequence[Column], profiles: Mapping[str, EnergyProfile], prompt: int) -> Table:
    """All rows that any column has something for.

    Args:
        columns: what is compared.
        profiles: energy profiles by name.
        prompt: tokens of the prefill that was timed.
    """
    table = Table([column.name for column in columns])
    groups = different_models(columns)
    if len(groups) > 1:
        named = "; ".join(f"{', '.join(names)} of {_base(columns, names[0])}" for names in groups)
        table.note(f"The columns are of different models: {named}. Their tokens and layers are not the same.")
    _model(table, columns, 1 if len(groups) > 1 else 0)
    _spikes(table, columns)
    _energy(table, columns, profiles)
    _quality(table, columns)
    _speed(table, columns, prompt)
    for column in columns:
        if column.others:
            files = ", ".join(file.name for file in column.others)
            table.note(f"{column.name}: {files} left out, not of this very checkpoint or without saying of which.")
    return table


def _base(columns: Sequence[Column], name: str) -> str:
    return next(column.base for column in columns if column.name == name)


def _model(table: Table, columns: Sequence[Column], note: int) -> None:
    def of_config(what: Callable[[SpikeConfig], str], of_float: str | None = None) -> list[Cell]:
        texts = [of_float if column.config is None else what(column.config) for column in columns]
        return [Cell() if text is None else Cell(text, text) for text in texts]

    bases = [Cell() if column.base == "unknown" else Cell(column.base, column.base) for column in columns]
    table.add(MODEL, "made from", "", bases, note)
    table.add(MODEL, "weights and spikes", "bits", of_config(_bits, "float"))
    table.add(MODEL, "input codec", "", of_config(lambda config: config.inputs.codec))
    table.add(MODEL, "temporal code", "", of_config(_code))
    if any(column.config is not None and column.config.kv is not None for column in columns):
        table.add(MODEL, "keys and values", "bits", of_config(_kv, "float"))
    table.add(MODEL, "bits per converted weight", "", [number(column.bits_per_weight) for column in columns])
    sizes = [None if column.size is None else column.size / 1e6 for column in columns]
    table.add(MODEL, "weights on disk", "MB", [number(size, 4) for size in sizes])


def _bits(config: SpikeConfig) -> str:
    changed = len(config.overrides)
    return config.bits + (f" (+{changed} overrides)" if changed else "")


def _code(config: SpikeConfig) -> str:
    if config.inputs.spikes == "integer":
        return "sent whole"
    return config.code.kind if isinstance(config.inputs, CountInputs) else NOTHING


def _kv(config: SpikeConfig) -> str:
    return "float" if config.kv is None else f"{config.kv.bits}, {config.kv.code.kind}"


def _spikes(table: Table, columns: Sequence[Column]) -> None:
    recorded = [column for column in columns if column.recording is not None]
    note = _text_note(table, recorded)
    reports = [None if column.recording is None else firing_report(column.recording.record) for column in columns]
    totals = [None if report is None or not report.layers else report.total for report in reports]

    def row(name: str, unit: str, what: Callable[[TotalFiring], float | None]) -> None:
        table.add(SPIKES, name, unit, [number(_of(total, what)) for total in totals], note)

    row("slots", "", lambda total: total.slots)
    row("firing rate", "", lambda total: total.firing_rate)
    row("spikes per input", "", lambda total: None if total.firing_rate is None else total.spikes_per_input)
    row("zero counts", "%", lambda total: 100 * total.zero_share)
    cached = [_of(report, lambda each: each.total.cache_spikes_per_input) for report in reports]
    table.add(SPIKES, "spikes per key or value", "", [number(value) for value in cached], note)

    def millions(name: str, what: Callable[[Work], float]) -> None:
        sums = [0.0 if column.work is None else sum(map(what, column.work)) for column in columns]
        values = [total / column.tokens / 1e6 if total else None for column, total in zip(columns, sums, strict=True)]
        table.add(OPERATIONS, name, "M a token", [number(value) for value in values], note)

    millions("adds for spikes (AC)", lambda work: work.accumulations)
    millions("products they replace", lambda work: work.macs if work.is_spiking else 0)
    millions("adds, shifts of membranes", lambda work: work.membrane_additions + work.membrane_shifts)
    millions("adds of rotations", lambda work: work.rotation_additions)
    millions("integer products (MAC)", lambda work: work.macs if _is_integer(work) else 0)
    millions("float products (MAC)", lambda work: 0 if work.is_spiking or _is_integer(work) else work.macs)


def _of(found: T | None, what: Callable[[T], float | None]) -> float | None:
    return None if found is None else what(found)


def _is_integer(work: Work) -> bool:
    return not work.is_spiking and FLOAT_BITS not in (work.count_bits, work.weight_bits)


def _text_note(table: Table, recorded: Sequence[Column]) -> int:
    """What the spikes were counted on, where that is not the same."""
    recordings = [column.recording for column in recorded if column.recording is not None]
    if len({text_of(each) for each in recordings}) <= 1:
        return 0
    named = "; ".join(f"{column.name}: {_text(column)}" for column in recorded)
    return table.note(f"Spikes were not counted on the same text: {named}.")


def _text(column: Column) -> str:
    text: dict[str, Any] = {} if column.recording is None else column.recording.about["text"] or {}
    limit = f", {text['limit']} documents" if text.get("limit") else ""
    return f"{text.get('what', 'unknown')}{limit}, {column.tokens:,} tokens"


def _energy(table: Table, columns: Sequence[Column], profiles: Mapping[str, EnergyProfile]) -> None:
    note = _text_note(table, [column for column in columns if column.recording is not None])
    for name, profile in profiles.items():
        found = [None if column.work is None else account(column.work, profile).total for column in columns]
        joules = [
            None if total is None else total.spiking / column.tokens / 1e6
            for column, total in zip(columns, found, strict=True)
        ]
        table.add(ENERGY, name, "µJ a token", [number(value) for value in joules], note)
        ours = [total if column.config is not None else None for column, total in zip(columns, found, strict=True)]
        dense = [_of(total, lambda each: each.spiking / each.integers if each.integers else None) for total in ours]
        sparse = [
            _of(total, lambda each: each.spiking / each.sparse_integers if each.sparse_integers else None)
            for total in ours
        ]
        table.add(ENERGY, "  / dense integers", "", [number(value) for value in dense], note)
        table.add(ENERGY, "  / integers skipping zeros", "", [number(value) for value in sparse], note)


def _quality(table: Table, columns: Sequence[Column]) -> None:
    questions: dict[str, Stored] = {}
    for column in columns:
        for question, each in column.results.items():
            questions.setdefault(question, each)
    ordered = sorted(questions.items(), key=lambda item: item[1].name != PERPLEXITY)
    names = [question_of(each) for _, each in ordered]
    for (question, example), name in zip(ordered, names, strict=True):
        if names.count(name) > 1:
            name = f"{name} ({str(example.asked.get('text') or example.asked.get('file'))[:8]})"
        answers = [column.results.get(question) for column in columns]
        note = _how_note(table, columns, answers, name)
        if example.name == PERPLEXITY:
            table.add(QUALITY, name, "", [number(_of(each, lambda found: found.value), 4) for each in answers], note)
            bits = [_of(each, lambda found: found.metrics["bits_per_byte"]) for each in answers]
            table.add(QUALITY, "  bits per byte", "", [number(value, 4) for value in bits], note)
        else:
            table.add(QUALITY, name, _unit(example), [score_of(each) for each in answers], note)


def question_of(stored: Stored) -> str:
    """What a number answers, in words."""
    asked = stored.asked
    if stored.name == PERPLEXITY:
        most = "" if asked["max_tokens"] is None else f", first {asked['max_tokens']:,}"
        return f"perplexity of {asked['label']} in windows of {asked['window']:,}{most}"
    shots = "" if asked["num_fewshot"] is None else f", {asked['num_fewshot']} shots"
    limit = "" if asked["limit"] is None else f", first {asked['limit']:,}"
    name = PurePath(stored.name).name if asked["file"] is not None else stored.name
    return f"{name} {stored.metric}, {asked['n']:,} of {asked['split']} ({asked['data']}){shots}{limit}"


def _unit(stored: Stored) -> str:
    return "%" if stored.is_accuracy else ""


def score_of(stored: Stored | None) -> Cell:
    """A task's score, accuracies in per cent, with its standard error."""
    if stored is None:
        return Cell()
    scale = 100 if stored.is_accuracy else 1
    error = "" if stored.stderr is None else f" ± {scale * stored.stderr:.1f}"
    return Cell(scale * stored.value, f"{scale * stored.value:.1f}{error}")


def _how_note(table: Table, columns: Sequence[Column], answers: Sequence[Stored | None], name: str) -> int:
    """In what the answers to one question differ: dtype, device, what a tokenizer made of the text."""
    given = [(column.name, each.how) for column, each in zip(columns, answers, strict=True) if each is not None]
    different = [key for key in dict.fromkeys(key for _, how in given for key in how) if _differ(given, key)]
    if not different:
        return 0
    named = "; ".join(f"{who}: {', '.join(f'{how.get(key)}' for key in different)}" for who, how in given)
    words = " and ".join(key.replace("_", " ") for key in different)
    return table.note(f"{name} was not measured alike, {words} differ: {named}.")


def _differ(given: Sequence[tuple[str, dict[str, Any]]], key: str) -> bool:
    return len({how.get(key) for _, how in given}) > 1


def _speed(table: Table, columns: Sequence[Column], prompt: int) -> None:
    timed = [column for column in columns if column.decode is not None]
    if not timed:
        return
    differ = len({tuple(column.compute.items()) for column in timed}) > 1
    how = "; ".join(f"{column.name}: {', '.join(column.compute.values())}" for column in timed)
    alike = how if differ else ", ".join(timed[0].compute.values())
    note = table.note(f"Medians of models that took turns on this machine, so that noise slows all alike ({alike}).")
    table.add(SPEED, f"prefill of {prompt}", "tokens/s", [number(column.prefill) for column in columns], note)
    table.add(SPEED, "decode", "tokens/s", [number(column.decode) for column in columns], note)
