"""The options of a conversion, each declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeconv.cli.options import CALIBRATION, CLIPPING, SETTINGS, WRITING

__all__ = [
    "Arch",
    "AsTrained",
    "Assignments",
    "Balance",
    "BiasCorrection",
    "Bits",
    "Budget",
    "Calibration",
    "CalibrationSeed",
    "CalibrationTokens",
    "ClipFrom",
    "ClipMode",
    "ClipQuantile",
    "ClipRatio",
    "ClipText",
    "ClipTokens",
    "ConvertDevice",
    "CountRange",
    "CountScale",
    "Damping",
    "DeadZone",
    "DeleteSourceShards",
    "DryRun",
    "FloatDtype",
    "Force",
    "Importance",
    "Jobs",
    "LogFile",
    "MaxMemory",
    "MaxShardSize",
    "Output",
    "Override",
    "Restart",
    "Rotation",
    "Scheme",
    "Seed",
    "Skip",
    "SpikePrice",
    "Step",
    "Steps",
    "WeightClip",
    "Weights",
]


Output = Annotated[Path | None, typer.Option("--output", "-o", help="Directory to create.", show_default="MODEL-BITS")]
Bits = Annotated[
    str | None,
    typer.Option(
        help="W-S: weight bits (2…8; 1 sign, 1.58 ternary, 16 float) and spikes; 1.58 ternary, 1 binary, 2…8 integer "
        "counts, 16 float.",
        rich_help_panel=SETTINGS,
        show_default="4-1.58",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Virtual steps T', as in 8, 16, 32.", rich_help_panel=SETTINGS, show_default="2^(W-1)"),
]
CountRange = Annotated[
    Literal["standard", "full"] | None,
    typer.Option(help="full uses all of -T'…T'.", rich_help_panel=SETTINGS, show_default="standard"),
]
Step = Annotated[
    float | None,
    typer.Option(
        help="δ, in units of the token's RMS or mean |x|.", rich_help_panel=SETTINGS, show_default="0.085; mean 1/3"
    ),
]
DeadZone = Annotated[
    float | None,
    typer.Option(
        help="θ: what is below θ times the token's RMS is not sent.", rich_help_panel=SETTINGS, show_default="0"
    ),
]
Rotation = Annotated[
    Literal["gamma-sqp", "quarot", "none"] | None,
    typer.Option(help="What is rotated.", rich_help_panel=SETTINGS, show_default="gamma-sqp"),
]
Balance = Annotated[
    Literal["none", "sqrt", "smoothquant"] | None,
    typer.Option(
        help="sqrt: inputs and weights share what is hard to round, channel by channel; smoothquant: by their maxima.",
        rich_help_panel=SETTINGS,
        show_default="none",
    ),
]
WeightClip = Annotated[
    Literal["mse", "none"] | None,
    typer.Option(help="Weight range search per output channel.", rich_help_panel=SETTINGS, show_default="mse"),
]
Weights = Annotated[
    Literal["rtn", "gptq", "gptaq", "qronos", "sign", "ternary"] | None,
    typer.Option(
        help="How weights are rounded: to the nearest; for the inputs that a calibration text gives; or signs alone "
        "(bits 1-… and 1.58-…).",
        rich_help_panel=SETTINGS,
        show_default="rtn",
    ),
]
Damping = Annotated[
    float | None,
    typer.Option(help="Damping of calibrated weights' Hessians.", rich_help_panel=SETTINGS, show_default="0.1"),
]
Importance = Annotated[
    Literal["equal", "gradient"] | None,
    typer.Option(
        help="What calibration tokens count: all the same, or as much as the loss asks of their outputs.",
        rich_help_panel=SETTINGS,
        show_default="equal",
    ),
]
BiasCorrection = Annotated[
    Literal["none", "mean"] | None,
    typer.Option(
        help="A bias that brings the mean outputs of calibrated weights back.",
        rich_help_panel=SETTINGS,
        show_default="none",
    ),
]
ClipQuantile = Annotated[
    float | None,
    typer.Option(
        help="Share of the membrane potentials cut off in front of attention, 0 to 1 (quantile-smoothed ReLU).",
        rich_help_panel=CLIPPING,
        show_default="none",
    ),
]
ClipMode = Annotated[
    Literal["relu", "shifted", "two-sided"] | None,
    typer.Option(
        help="u where u > τ; max(u - τ, 0); or both signs towards 0 by τ.",
        rich_help_panel=CLIPPING,
        show_default="relu",
    ),
]
ClipText = Annotated[
    Path | None,
    typer.Option(help="Text that τ is calibrated on.", rich_help_panel=CLIPPING, show_default="BoolQ's passages"),
]
ClipTokens = Annotated[int, typer.Option(help="Tokens of it to read.", rich_help_panel=CLIPPING, min=2)]
ClipFrom = Annotated[
    Path | None,
    typer.Option(
        help="A model that `finetune` made: takes its τ, and the model itself if SOURCE is omitted.",
        rich_help_panel=CLIPPING,
        show_default=False,
    ),
]
AsTrained = Annotated[
    bool,
    typer.Option(
        "--as-trained",
        help="SOURCE was trained through spikes: takes the settings, and all that was calibrated, from it.",
        rich_help_panel=CALIBRATION,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="Text file, wikitext2, c4, a hub id, or mixed (offline), for what needs a text.",
        rich_help_panel=CALIBRATION,
        show_default="mixed",
    ),
]
CalibrationTokens = Annotated[
    int | None,
    typer.Option(help="Tokens of it to read.", rich_help_panel=CALIBRATION, show_default="16384; 65536 for weights"),
]
CalibrationSeed = Annotated[
    int | None,
    typer.Option(help="Seed of which ones.", rich_help_panel=CALIBRATION, show_default="0"),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the random signs.", rich_help_panel=SETTINGS, show_default="2")]
Scheme = Annotated[str | None, typer.Option(help="YAML file or a name in configs/schemes/.", rich_help_panel=SETTINGS)]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, any setting, as in inputs.clip_ratio=0.95.", rich_help_panel=SETTINGS),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Role or name pattern to leave as it is.", rich_help_panel=SETTINGS),
]
Override = Annotated[
    list[str] | None,
    typer.Option(help="PATTERN:key=value[,key=value], as in down:weights.bits=6.", rich_help_panel=SETTINGS),
]
FloatDtype = Annotated[
    str,
    typer.Option(help="Dtype of what stays float: auto (as in the source), float32, bfloat16, float16."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what it would do and take, as `plan`.", rich_help_panel=WRITING),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an existing converted checkpoint.", rich_help_panel=WRITING)
]
ClipRatio = Annotated[
    str | None,
    typer.Option(
        help="Share of a token's range that is kept, or auto: that with the least output error, encoder by encoder.",
        rich_help_panel=SETTINGS,
        metavar="FLOAT|auto",
        show_default="0.9; 1 with rms",
    ),
]
CountScale = Annotated[
    Literal["max", "rms", "mean", "auto"] | None,
    typer.Option(
        help="A count of one: a share of a token's largest value, --step times its RMS or mean |x|, or auto.",
        rich_help_panel=SETTINGS,
        show_default="max",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="spikes=N per input or perplexity=R times float: chooses steps, dead zones, widths and rotation.",
        rich_help_panel=CALIBRATION,
        show_default="none",
    ),
]
SpikePrice = Annotated[
    float | None,
    typer.Option(
        help="λ: nats per token that auto gives for a spike per input.", rich_help_panel=CALIBRATION, show_default="0"
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(help="Threads that convert.", rich_help_panel=WRITING, show_default="all cores", min=1, max=64),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="I/N: be the I-th of N processes, on one host or many, that convert into the same --output.",
        rich_help_panel=WRITING,
        metavar="I/N",
        show_default="none",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        help="File to append a line of JSON to for every tensor.", rich_help_panel=WRITING, show_default="none"
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="The most memory to take, as in 4GB; fewer tensors are worked on at once.",
        rich_help_panel=WRITING,
        metavar="SIZE",
        show_default="no limit",
    ),
]
MaxShardSize = Annotated[
    str, typer.Option(help="Largest weight file, as in 500MB.", rich_help_panel=WRITING, metavar="SIZE")
]
DeleteSourceShards = Annotated[
    bool,
    typer.Option(
        "--delete-source-shards",
        help="Remove each shard that was fetched from the hub once it is converted, for small disks.",
        rich_help_panel=WRITING,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="What a .pth file holds that has RWKV-4's names but is none: spikegpt, spikegpt-binary (embedding), "
        "spikegpt-b (LIF in the feed-forward).",
        show_default="RWKV-4",
    ),
]
ConvertDevice = Annotated[
    str,
    typer.Option("--device", help="cpu, cuda, cuda:1, …: what rotates and rounds.", rich_help_panel=WRITING),
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Begin anew where a conversion was stopped.", rich_help_panel=WRITING),
]
