"""The options of a conversion that say how an input becomes spikes, and how they are sent."""

from typing import Annotated, Literal

import typer

from spikeconv.cli.options import SETTINGS

__all__ = [
    "Alpha",
    "Codec",
    "IntegerDigits",
    "K",
    "KvBits",
    "KvCode",
    "KvGroup",
    "KvLowShare",
    "KvRange",
    "KvSlots",
    "KvSteps",
    "Layers",
    "LowShare",
    "Reset",
    "SalientBits",
    "SalientMode",
    "SlotOverflow",
    "Slots",
    "TemporalCode",
    "TimeSteps",
]

CodeName = Literal["unary", "binary", "signed-digit", "ramp"]
Codec = Annotated[
    Literal["count", "multihead", "repetition", "gif", "elastic", "lif"] | None,
    typer.Option(
        help="How an input becomes spikes: SDLLM's counts, SpikeRWKV's decimal digits, its repetition baseline, "
        "SpikeLLM's counts with more bits in salient channels, SpikeLM's elastic neurons, its LIF baseline.",
        rich_help_panel=SETTINGS,
        show_default="count",
    ),
]
Layers = Annotated[
    int | None, typer.Option(help="multihead: decimal digits.", rich_help_panel=SETTINGS, show_default="3")
]
IntegerDigits = Annotated[
    int | None,
    typer.Option(help="multihead: digits before the point.", rich_help_panel=SETTINGS, show_default="2"),
]
TimeSteps = Annotated[
    int | None,
    typer.Option(help="multihead, repetition, elastic, lif: time steps T.", rich_help_panel=SETTINGS, show_default="1"),
]
K = Annotated[
    float | None,
    typer.Option(
        "--k", help="elastic: α is k times the mean |m| of a batch.", rich_help_panel=SETTINGS, show_default="2"
    ),
]
Alpha = Annotated[
    Literal["batch", "learned", "one"] | None,
    typer.Option(
        help="elastic: what a spike is worth: as a calibration batch says, or learned in training from there, or 1.",
        rich_help_panel=SETTINGS,
        show_default="batch",
    ),
]
Reset = Annotated[
    Literal["code", "normalised"] | None,
    typer.Option(
        help="elastic: what a spike leaves of a potential, as the public code has it, or nothing of either sign.",
        rich_help_panel=SETTINGS,
        show_default="code",
    ),
]
SalientBits = Annotated[
    int | None,
    typer.Option(
        help="gif: bits more of a salient channel, sent in 2^bits steps.", rich_help_panel=SETTINGS, show_default="1"
    ),
]
LowShare = Annotated[
    float | None,
    typer.Option(help="gif: share of the channels that are not salient.", rich_help_panel=SETTINGS, show_default="0.9"),
]
SalientMode = Annotated[
    Literal["steps", "plain"] | None,
    typer.Option(
        help="gif: salient counts in steps, which cut their largest values off, or whole.",
        rich_help_panel=SETTINGS,
        show_default="steps",
    ),
]
TemporalCode = Annotated[
    CodeName | None,
    typer.Option(help="How a count is sent slot by slot.", rich_help_panel=SETTINGS, show_default="unary"),
]
Slots = Annotated[
    int | None,
    typer.Option(help="ramp: slots, 1…64.", rich_help_panel=SETTINGS, show_default="as many as T'"),
]
SlotOverflow = Annotated[
    Literal["error", "clip"] | None,
    typer.Option(
        help="Counts that the slots do not reach: refuse, or cut off.",
        rich_help_panel=SETTINGS,
        show_default="error",
    ),
]
KvBits = Annotated[
    str | None,
    typer.Option(
        help="Bits of the spike counts of keys and values, 2…8.", rich_help_panel=SETTINGS, show_default="none"
    ),
]
KvSteps = Annotated[
    int | None, typer.Option(help="Their virtual steps T', instead of the bits.", rich_help_panel=SETTINGS)
]
KvRange = Annotated[
    Literal["symmetric", "asymmetric"] | None,
    typer.Option(help="Ternary or binary spikes.", rich_help_panel=SETTINGS, show_default="symmetric"),
]
KvGroup = Annotated[
    str | None,
    typer.Option(help="Inputs that share a scale.", rich_help_panel=SETTINGS, show_default="head_dim"),
]
KvLowShare = Annotated[
    float | None,
    typer.Option(
        help="Share of their channels that are not salient; the others have a bit more.",
        rich_help_panel=SETTINGS,
        show_default="all alike",
    ),
]
KvCode = Annotated[
    CodeName | None,
    typer.Option(help="How a count of theirs is sent.", rich_help_panel=SETTINGS, show_default="unary"),
]
KvSlots = Annotated[
    int | None,
    typer.Option(help="ramp: its slots, 1…64.", rich_help_panel=SETTINGS, show_default="as many as T'"),
]
