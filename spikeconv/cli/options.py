"""Options that several commands share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

from spikeconv.sources.presets import DEFAULT_MODEL

__all__ = [
    "CALIBRATION",
    "CLIPPING",
    "AsJson",
    "CacheDtype",
    "Checkpoint",
    "ClipRoles",
    "Dataset",
    "Device",
    "Dtype",
    "Execution",
    "HeadBits",
    "MadeFrom",
    "MemoryLimits",
    "ModelParallel",
    "OffloadFolder",
    "Profiles",
    "Quiet",
    "Recorded",
    "SampleText",
    "Seed",
    "Source",
    "Temperature",
    "TrustRemoteCode",
]

CALIBRATION = "Calibration text"
CLIPPING = "Membrane clipping"
PLACING = "Larger than one device"
SETTINGS = "Scheme"
WRITING = "Writing"
"""Headings of their options in the help."""

Checkpoint = Annotated[
    Path | None,
    typer.Argument(help="A converted checkpoint; the last converted one if omitted.", show_default=False),
]
Source = Annotated[
    str | None,
    typer.Argument(
        help=f"Preset, hub id, directory, GGUF or RWKV .pth file; {DEFAULT_MODEL} if omitted.", show_default=False
    ),
]
ClipRoles = Annotated[
    str | None,
    typer.Option(
        help="Roles to clip, with commas, as in q,k,v,gate,up.", rich_help_panel=CLIPPING, show_default="q,k,v"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]
Recorded = Annotated[
    Path | None,
    typer.Option(
        "--record", help="Report on what `spikeconv record` wrote, instead of a checkpoint.", show_default=False
    ),
]
SampleText = Annotated[
    Path | None,
    typer.Option("--text", help="UTF-8 text to read.", show_default="a bundled public-domain sample"),
]
Dataset = Annotated[str | None, typer.Option(help="wikitext2, c4 or a hub id to read.", show_default=False)]
Profiles = Annotated[str, typer.Option("--profile", help="Names in configs/energy/ or YAML files, with commas.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="Compute dtype: auto, float32, bfloat16 or float16.")]
Execution = Annotated[
    str | None,
    typer.Option("--exec", help="auto, dense, events or unfold; same bits. (Or SPIKECONV_EXEC.)", show_default=False),
]
CacheDtype = Annotated[
    str | None,
    typer.Option(
        help="Of float keys and values in the engine: float32, or bfloat16 (rounded, faster).", show_default="float32"
    ),
]
HeadBits = Annotated[
    int | None,
    typer.Option(min=8, max=8, help="8: round the float head to int8 (on a CPU); else its own.", show_default=False),
]
ModelParallel = Annotated[
    bool,
    typer.Option(
        "--model-parallel",
        help="Spread the layers over all GPUs, then main memory, then the disk.",
        rich_help_panel=PLACING,
    ),
]
MemoryLimits = Annotated[
    str | None,
    typer.Option(
        help="The most bytes of weights on each GPU and in main memory, as in 0=20GB,cpu=60GB; the rest stays on the "
        "disk.",
        rich_help_panel=PLACING,
        metavar="SIZES",
        show_default="what is free",
    ),
]
OffloadFolder = Annotated[
    Path | None,
    typer.Option(
        help="For weights that stay on the disk and cannot be read from the checkpoint as they are.",
        rich_help_panel=PLACING,
        show_default=False,
    ),
]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the sampling.")]
MadeFrom = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="What it was converted from, as for `convert`.",
        show_default="as recorded, if it was converted here",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow Python code that comes with a checkpoint to run.")
]
