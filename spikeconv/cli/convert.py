"""`spikeconv convert`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.failure import convenience
from spikeconv.cli.options import (
    CALIBRATION,
    CLIPPING,
    SETTINGS,
    AsJson,
    Budget,
    ClipRatio,
    ClipRoles,
    CountScale,
    Quiet,
    Source,
    SpikePrice,
    TrustRemoteCode,
)
from spikeconv.cli.settings import build_config, model_name, number
from spikeconv.cli.show_conversion import show_layer, show_plan, show_summary
from spikeconv.sources.presets import DEFAULT_MODEL

__all__ = ["convert"]


def convert(
    source: Source = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to create.", show_default="MODEL-BITS")
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            help="W-S: weight bits and spikes; 1.58 ternary, 1 binary, 2…8 integer counts, 16 float.",
            rich_help_panel=SETTINGS,
            show_default="4-1.58",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Virtual steps T', as in 8, 16, 32.", rich_help_panel=SETTINGS, show_default="2^(W-1)"),
    ] = None,
    count_range: Annotated[
        Literal["standard", "full"] | None,
        typer.Option(help="full uses all of -T'…T'.", rich_help_panel=SETTINGS, show_default="standard"),
    ] = None,
    clip_ratio: ClipRatio = None,
    count_scale: CountScale = None,
    step: Annotated[
        float | None,
        typer.Option(help="rms: δ, in units of the token's RMS.", rich_help_panel=SETTINGS, show_default="0.085"),
    ] = None,
    dead_zone: Annotated[
        float | None,
        typer.Option(
            help="θ: what is below θ times the token's RMS is not sent.", rich_help_panel=SETTINGS, show_default="0"
        ),
    ] = None,
    rotation: Annotated[
        Literal["gamma-sqp", "quarot", "none"] | None,
        typer.Option(help="What is rotated.", rich_help_panel=SETTINGS, show_default="gamma-sqp"),
    ] = None,
    balance: Annotated[
        Literal["none", "sqrt"] | None,
        typer.Option(
            help="sqrt: inputs and weights share what is hard to round, channel by channel.",
            rich_help_panel=SETTINGS,
            show_default="none",
        ),
    ] = None,
    weight_clip: Annotated[
        Literal["mse", "none"] | None,
        typer.Option(help="Weight range search per output channel.", rich_help_panel=SETTINGS, show_default="mse"),
    ] = None,
    weights: Annotated[
        Literal["rtn", "gptq", "gptaq", "qronos"] | None,
        typer.Option(
            help="How weights are rounded: to the nearest, or for the inputs that a calibration text gives.",
            rich_help_panel=SETTINGS,
            show_default="rtn",
        ),
    ] = None,
    damping: Annotated[
        float | None,
        typer.Option(help="Damping of calibrated weights' Hessians.", rich_help_panel=SETTINGS, show_default="0.1"),
    ] = None,
    bias_correction: Annotated[
        Literal["none", "mean"] | None,
        typer.Option(
            help="A bias that brings the mean outputs of calibrated weights back.",
            rich_help_panel=SETTINGS,
            show_default="none",
        ),
    ] = None,
    codec: Annotated[
        Literal["count", "multihead", "repetition"] | None,
        typer.Option(
            help="How an input becomes spikes: SDLLM's counts, SpikeRWKV's decimal digits, its repetition baseline.",
            rich_help_panel=SETTINGS,
            show_default="count",
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="multihead: decimal digits.", rich_help_panel=SETTINGS, show_default="3")
    ] = None,
    integer_digits: Annotated[
        int | None,
        typer.Option(help="multihead: digits before the point.", rich_help_panel=SETTINGS, show_default="2"),
    ] = None,
    time_steps: Annotated[
        int | None,
        typer.Option(help="multihead, repetition: time steps T.", rich_help_panel=SETTINGS, show_default="1"),
    ] = None,
    temporal_code: Annotated[
        Literal["unary", "binary", "signed-digit", "ramp"] | None,
        typer.Option(help="How a count is sent slot by slot.", rich_help_panel=SETTINGS, show_default="unary"),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(help="ramp: slots, 1…64.", rich_help_panel=SETTINGS, show_default="as many as T'"),
    ] = None,
    slot_overflow: Annotated[
        Literal["error", "clip"] | None,
        typer.Option(
            help="Counts that the slots do not reach: refuse, or cut off.",
            rich_help_panel=SETTINGS,
            show_default="error",
        ),
    ] = None,
    kv_bits: Annotated[
        str | None,
        typer.Option(
            help="Bits of the spike counts of keys and values, 2…8.", rich_help_panel=SETTINGS, show_default="none"
        ),
    ] = None,
    kv_steps: Annotated[
        int | None, typer.Option(help="Their virtual steps T', instead of the bits.", rich_help_panel=SETTINGS)
    ] = None,
    kv_range: Annotated[
        Literal["symmetric", "asymmetric"] | None,
        typer.Option(help="Ternary or binary spikes.", rich_help_panel=SETTINGS, show_default="symmetric"),
    ] = None,
    kv_group: Annotated[
        str | None,
        typer.Option(help="Inputs that share a scale.", rich_help_panel=SETTINGS, show_default="head_dim"),
    ] = None,
    kv_code: Annotated[
        Literal["unary", "binary", "signed-digit", "ramp"] | None,
        typer.Option(help="How a count of theirs is sent.", rich_help_panel=SETTINGS, show_default="unary"),
    ] = None,
    kv_slots: Annotated[
        int | None,
        typer.Option(help="ramp: its slots, 1…64.", rich_help_panel=SETTINGS, show_default="as many as T'"),
    ] = None,
    clip_quantile: Annotated[
        float | None,
        typer.Option(
            help="Share of the membrane potentials cut off in front of attention, 0 to 1 (quantile-smoothed ReLU).",
            rich_help_panel=CLIPPING,
            show_default="none",
        ),
    ] = None,
    clip_mode: Annotated[
        Literal["relu", "shifted", "two-sided"] | None,
        typer.Option(
            help="u where u > τ; max(u - τ, 0); or both signs towards 0 by τ.",
            rich_help_panel=CLIPPING,
            show_default="relu",
        ),
    ] = None,
    clip_roles: ClipRoles = None,
    clip_text: Annotated[
        Path | None,
        typer.Option(help="Text that τ is calibrated on.", rich_help_panel=CLIPPING, show_default="BoolQ's passages"),
    ] = None,
    clip_tokens: Annotated[int, typer.Option(help="Tokens of it to read.", rich_help_panel=CLIPPING, min=2)] = 8192,
    clip_from: Annotated[
        Path | None,
        typer.Option(
            help="A model that `finetune` made: takes its τ, and the model itself if SOURCE is omitted.",
            rich_help_panel=CLIPPING,
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Text file, wikitext2, c4, a hub id, or mixed (offline), for what needs a text.",
            rich_help_panel=CALIBRATION,
            show_default="mixed",
        ),
    ] = None,
    calibration_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of it to read.", rich_help_panel=CALIBRATION, show_default="16384; 65536 for weights"
        ),
    ] = None,
    calibration_seed: Annotated[
        int | None,
        typer.Option(help="Seed of which ones.", rich_help_panel=CALIBRATION, show_default="0"),
    ] = None,
    budget: Budget = None,
    spike_price: SpikePrice = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random signs.", rich_help_panel=SETTINGS, show_default="2")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="YAML file or a name in configs/schemes/.", rich_help_panel=SETTINGS)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, any setting, as in inputs.clip_ratio=0.95.", rich_help_panel=SETTINGS),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Role or name pattern to leave as it is.", rich_help_panel=SETTINGS),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN:key=value[,key=value], as in down:weights.bits=6.", rich_help_panel=SETTINGS),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="Dtype of what stays float: auto (as in the source), float32, bfloat16, float16."),
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing converted checkpoint.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint into a spike-driven one, layer by layer, without training.

    Example: [cyan]spikeconv convert llama2-7b --bits 4-1.58[/]
    """
    options = {
        "bits": bits,
        "steps": steps,
        "count_range": count_range,
        "clip_ratio": None if clip_ratio in (None, "auto") else number("--clip-ratio", str(clip_ratio)),
        "count_scale": None if count_scale == "auto" else count_scale,
        "step": step,
        "dead_zone": dead_zone,
        "rotation": rotation,
        "balance": balance,
        "weight_clip": weight_clip,
        "weights": weights,
        "damping": damping,
        "bias_correction": bias_correction,
        "codec": codec,
        "layers": layers,
        "integer_digits": integer_digits,
        "time_steps": time_steps,
        "temporal_code": temporal_code,
        "slots": slots,
        "slot_overflow": slot_overflow,
        "kv_bits": kv_bits,
        "kv_steps": kv_steps,
        "kv_range": kv_range,
        "kv_group": 0 if kv_group == "head_dim" else kv_group,
        "kv_code": kv_code,
        "kv_slots": kv_slots,
        "seed": seed,
    }
    config = build_config(scheme, options, assignments or [], skip or [], override or [])
    if source is None and clip_from is not None:
        source = str(clip_from)
    if source is None and not quiet:
        err.print("[note]No SOURCE given; converting the embedded model {model}.[/]", model=DEFAULT_MODEL)

    from spikeconv.calibrate.windows import Calibration
    from spikeconv.checkpoint.folder import remember
    from spikeconv.checkpoint.scratch import check_target
    from spikeconv.checkpoint.writer import RECORD
    from spikeconv.conversion.pipeline import convert as run
    from spikeconv.conversion.recipe import Clipping, plan_conversion
    from spikeconv.conversion.search import Search
    from spikeconv.loading import parse_dtype
    from spikeconv.sources.resolve import open_source, resolve_source

    clipping = Clipping.parse(
        {
            "clip_quantile": clip_quantile,
            "clip_mode": clip_mode,
            "clip_roles": clip_roles,
            "clip_text": clip_text,
            "clip_tokens": clip_tokens,
            "clip_from": clip_from,
        }
    )
    texts = Calibration.parse(
        {
            "calibration": calibration,
            "calibration_tokens": calibration_tokens,
            "calibration_seed": calibration_seed,
        }
    )
    auto = [name for name, value in (("clip_ratio", clip_ratio), ("count_scale", count_scale)) if value == "auto"]
    wanted = Search.parse({"budget": budget, "auto": auto, "spike_price": spike_price})
    name = source or DEFAULT_MODEL
    target = output or Path(f"{model_name(name)}-{config.bits}")
    float_dtype = parse_dtype(dtype)
    if not dry_run:
        check_target(target, force, RECORD)
    opened = open_source(resolve_source(name), trust_remote_code=trust_remote_code)
    plan = plan_conversion(
        opened,
        config,
        clipping,
        texts,
        wanted,
        dtype=float_dtype,
        calibrate=not dry_run,
        track=tracker(quiet),
        note=lambda text: None if quiet else err.print("[note]{text}[/]", text=text),
    )
    if not quiet:
        show_plan(plan, str(opened.path))
    if dry_run:
        print_json(plan.to_dict()) if as_json else out.print("[note]Dry run: nothing was written.[/]")
        return
    try:
        summary = run(
            opened,
            plan,
            target,
            command=shlex.join(["spikeconv", *sys.argv[1:]]),
            dtype=float_dtype,
            force=force,
            track=tracker(quiet),
            on_layer=lambda result: None if quiet else show_layer(result),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{target} was not written") from None
    with convenience("this checkpoint will not be the default of other commands"):
        remember(target)
    print_json(summary.to_dict()) if as_json else show_summary(summary)
    if not quiet and config.sends_each_spike and scheme is None and balance is None:
        err.print("[note]About one spike for any count, a better model: --scheme ramp-5 (docs/temporal-codes.md).[/]")
