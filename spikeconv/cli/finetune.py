"""`spikeconv finetune`: rotational sparse training."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.options import CLIPPING, AsJson, ClipRoles, Device, Quiet, Source, TrustRemoteCode
from spikeconv.cli.settings import model_name, split
from spikeconv.sources.presets import DEFAULT_MODEL

if TYPE_CHECKING:
    from spikeconv.finetune.results import StepResult

__all__ = ["finetune"]

TRAINING = "Training"


def finetune(
    source: Source = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to create.", show_default="MODEL-clipped")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file to train on.", show_default=False)] = None,
    dataset: Annotated[
        str | None, typer.Option(help="wikitext2, c4 or a hub id to train on.", show_default=False)
    ] = None,
    clip_quantile: Annotated[
        float, typer.Option(help="Share of the membrane potentials cut off, 0 to 1.", rich_help_panel=CLIPPING)
    ] = 0.5,
    clip_mode: Annotated[
        Literal["relu", "shifted", "two-sided"],
        typer.Option(help="u where u > τ; max(u - τ, 0); or both signs towards 0 by τ.", rich_help_panel=CLIPPING),
    ] = "relu",
    clip_roles: ClipRoles = None,
    clip_momentum: Annotated[
        float, typer.Option(help="Share of the old τ in its moving average.", rich_help_panel=CLIPPING)
    ] = 0.9,
    rotation: Annotated[
        Literal["gamma-sqp", "none"], typer.Option(help="What the conversion will rotate.", rich_help_panel=CLIPPING)
    ] = "gamma-sqp",
    seed: Annotated[
        int, typer.Option(help="Seed of the random signs and of the order of the text.", rich_help_panel=CLIPPING)
    ] = 2,
    refit_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens on which clipped linears are refitted first; 0: no.",
            rich_help_panel=TRAINING,
            show_default="16 for each input, at least 8192",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Optimizer steps in all; 0 only refits.", rich_help_panel=TRAINING)
    ] = 300,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, constant.", rich_help_panel=TRAINING)] = 2e-5,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=TRAINING)] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Windows at once in a process.", rich_help_panel=TRAINING)] = 4,
    accumulate: Annotated[int, typer.Option(help="Batches of one step.", rich_help_panel=TRAINING)] = 1,
    window: Annotated[int, typer.Option(help="Tokens of a window.", rich_help_panel=TRAINING)] = 512,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Of the products; weights stay float32.", rich_help_panel=TRAINING),
    ] = "float32",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, one more forward.", rich_help_panel=TRAINING)
    ] = False,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between states to resume from.", rich_help_panel=TRAINING)
    ] = 50,
    log_every: Annotated[
        int, typer.Option(min=1, help="Steps between lines of the log.", rich_help_panel=TRAINING)
    ] = 10,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run and its output.")] = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a float model for sparse spikes: the inputs of attention are clipped at a quantile that is learned.

    The result is an ordinary checkpoint that converts with `convert --clip-from`. Several processes, FSDP and
    DeepSpeed: `accelerate launch -m spikeconv finetune …`.

    Example: [cyan]spikeconv finetune --text book.txt -o sparse && spikeconv convert --clip-from sparse[/]
    """
    from spikeconv.calibrate.record import RECORD
    from spikeconv.calibrate.thresholds import clip_roles as with_roles
    from spikeconv.checkpoint.scratch import check_target
    from spikeconv.config import SpikeConfig, parse_settings
    from spikeconv.conversion.plan import make_plan
    from spikeconv.data.texts import token_windows, training_text
    from spikeconv.families import find_family, refuse_encoder
    from spikeconv.finetune.refit import enough_to_refit
    from spikeconv.finetune.settings import FinetuneSettings
    from spikeconv.finetune.train import Course, make_accelerator
    from spikeconv.finetune.train import finetune as run
    from spikeconv.loading import find_device
    from spikeconv.sources.float_model import load_float
    from spikeconv.sources.resolve import open_source, resolve_source

    name = source or DEFAULT_MODEL
    target = (output or Path(f"{model_name(name)}-clipped")).absolute()  # its run folder lies beside it
    check_target(target, force or resume, RECORD)
    content, label = training_text(text, dataset)
    opened = open_source(resolve_source(name), trust_remote_code=trust_remote_code)
    config = SpikeConfig.parse({"rotation.kind": rotation, "rotation.seed": seed})
    family = find_family(opened.config)
    refuse_encoder(family, "text to be trained on so")
    plan = make_plan(opened, with_roles(config, family, clip_mode, clip_quantile, split(clip_roles)))
    settings = parse_settings(
        FinetuneSettings,
        {
            "source": name,
            "text": label,
            "text_sha256": hashlib.sha256(content.encode()).hexdigest(),
            "clip_mode": clip_mode,
            "clip_quantile": clip_quantile,
            "clip_roles": split(clip_roles),
            "clip_momentum": clip_momentum,
            "rotation": rotation,
            "seed": seed,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "refit_tokens": enough_to_refit(plan) if refit_tokens is None else refit_tokens,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "window": window,
            "precision": precision,
            "gradient_checkpointing": gradient_checkpointing,
        },
    )
    accelerator = make_accelerator(settings, find_device(device).type == "cpu")
    settings = settings.model_copy(update={"processes": accelerator.num_processes})
    loaded = load_float(opened, device="cpu", dtype="float32")
    windows = token_windows(loaded, content, window)
    quiet = quiet or not accelerator.is_main_process
    if not quiet:
        err.print(
            "[note]Training on {tokens:,} tokens of {label}; processes: {settings.processes}.[/]",
            tokens=windows.numel(),
            label=label,
            settings=settings,
        )
    try:
        summary = run(
            loaded,
            plan.config,
            settings,
            windows,
            target,
            Course(steps, save_every, log_every, resume, force),
            accelerator,
            track=tracker(quiet),
            on_step=lambda result: None if quiet else show_step(result),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on from the last saved state") from None
    if not accelerator.is_main_process:
        return
    if as_json:
        print_json(summary.to_dict())
        return
    rate = "" if summary.firing_rate is None else f", firing rate {summary.firing_rate:.3f}"
    out.print(
        "[good]Fine-tuned[/] for {summary.steps} steps ({summary.tokens:,} tokens) in "
        "[number]{summary.seconds:.0f} s[/]: loss {summary.loss:.3f}, mean τ {summary.threshold:.3f}{rate}\n"
        "Saved to [number]{summary.output}[/]",
        summary=summary,
        rate=rate,
    )


def show_step(result: "StepResult") -> None:
    """One logged step."""
    rate = "" if result.firing_rate is None else f"  rate {result.firing_rate:.3f}"
    thresholds = f"{result.threshold:.3f} ({result.lowest_threshold:.3f} to {result.highest_threshold:.3f})"
    err.print(
        "[note]step {result.step}[/]  loss {result.loss:.4f}  τ {thresholds}{rate}  "
        "[note]{result.tokens_per_second:,.0f} tokens/s[/]",
        result=result,
        thresholds=thresholds,
        rate=rate,
    )
