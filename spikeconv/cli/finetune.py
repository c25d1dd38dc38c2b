"""`spikeconv finetune`: rotational sparse training, and training through spikes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.convert_options import Assignments, Bits, Skip
from spikeconv.cli.early import given
from spikeconv.cli.encoding_options import Codec, TimeSteps
from spikeconv.cli.measured import installed
from spikeconv.cli.options import CLIPPING, AsJson, ClipRoles, Device, Quiet, Source, TrustRemoteCode
from spikeconv.cli.settings import build_config, model_name, split
from spikeconv.sources.presets import DEFAULT_MODEL

if TYPE_CHECKING:
    from spikeconv.finetune.results import StepResult

__all__ = ["finetune"]

TRAINING, SPIKES = "Training", "Through spikes"


def finetune(
    source: Source = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to create.", show_default="MODEL-clipped")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file to train on.", show_default=False)] = None,
    dataset: Annotated[
        str | None, typer.Option(help="wikitext2, c4 or a hub id to train on.", show_default=False)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Labelled texts to train a classifier on: sst2, mrpc, rte (parts of GLUE that need no hub), or a "
            '.jsonl file of {"text", "pair", "label"}.',
            show_default=False,
        ),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="Train through the spikes of this conversion.", rich_help_panel=SPIKES, show_default=False),
    ] = None,
    bits: Bits = None,
    codec: Codec = None,
    time_steps: TimeSteps = None,
    assignments: Assignments = None,
    skip: Skip = None,
    distill: Annotated[
        bool | None,
        typer.Option(
            "--distill/--no-distill",
            help="Learn from the float model's logits and hidden states too.",
            rich_help_panel=SPIKES,
            show_default="distill",
        ),
    ] = None,
    clip_quantile: Annotated[
        float | None,
        typer.Option(
            help="Share of the membrane potentials cut off, 0 to 1.", rich_help_panel=CLIPPING, show_default="0.5"
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
    clip_momentum: Annotated[
        float | None,
        typer.Option(help="Share of the old τ in its moving average.", rich_help_panel=CLIPPING, show_default="0.9"),
    ] = None,
    rotation: Annotated[
        Literal["gamma-sqp", "none"] | None,
        typer.Option(
            help="What the conversion will rotate.", rich_help_panel=CLIPPING, show_default="gamma-sqp, or the scheme's"
        ),
    ] = None,
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
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window of a text.", rich_help_panel=TRAINING, show_default="512")
    ] = None,
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
    """Fine-tune a float model for sparse spikes, or through the spikes of a conversion.

    By default the inputs of attention are clipped at a quantile that is learned; the result is an ordinary checkpoint
    that converts with `convert --clip-from`. With --scheme, --bits, --codec or --set the model computes what that
    conversion will, gradients pass its spikes, and the result converts with `convert --as-trained`. A --task trains a
    classifier. Several processes, FSDP and DeepSpeed: `accelerate launch -m spikeconv finetune …`.

    Example: [cyan]spikeconv finetune --text book.txt -o sparse && spikeconv convert --clip-from sparse[/]

    [cyan]spikeconv finetune minilm-l6 --task sst2 --codec elastic --time-steps 4 -o spiking[/]
    """
    from spikeconv.calibrate.clipping import Clipping
    from spikeconv.calibrate.clipping import clip_roles as with_roles
    from spikeconv.calibrate.record import RECORD
    from spikeconv.calibrate.training_record import TRAINING_RECORD
    from spikeconv.checkpoint.scratch import check_target
    from spikeconv.config import SpikeConfig, parse_settings
    from spikeconv.data.labelled import labelled
    from spikeconv.data.texts import training_text
    from spikeconv.errors import SpikeconvError
    from spikeconv.finetune.settings import FinetuneSettings
    from spikeconv.hashing import text_digest

    options: dict[str, Any] = {"bits": bits, "codec": codec, "time_steps": time_steps}
    asked = scheme is not None or bool(assignments) or any(value is not None for value in options.values())
    through = asked or task is not None
    of_clipping = {
        "--clip-quantile": clip_quantile,
        "--clip-mode": clip_mode,
        "--clip-roles": clip_roles,
        "--clip-momentum": clip_momentum,
        "--refit-tokens": refit_tokens,
    }
    of_texts = {"--text": text, "--dataset": dataset, "--window": window}
    of_spikes = {"--distill": distill, "--skip": skip or None}
    for these, are_out, why in (
        (of_clipping, through, "belongs to training with clipped inputs, not through spikes"),
        (of_texts, task is not None, "belongs to a text; --task has texts of its own"),
        (of_spikes, not asked, "belongs to training through spikes; say which, as --codec elastic"),
    ):
        if are_out and (named := given(these)):
            raise SpikeconvError(f"{named[0]} {why}.")
    name = source or DEFAULT_MODEL
    suffix = "clipped" if not through else "trained"
    target = (output or Path(f"{model_name(name)}-{suffix}")).absolute()  # its run folder lies beside it
    check_target(target, force or resume, TRAINING_RECORD if through else RECORD)
    options = {**options, "rotation": rotation} if asked else {"bits": "16-16", "rotation": "none"}
    spiking = build_config(scheme, options, assignments or [], skip or [], [])
    examples = None if task is None else labelled(task, "train")
    content, label = ("", f"{task}, {len(examples)} texts") if examples is not None else training_text(text, dataset)
    wanted = {
        "clip_mode": clip_mode,
        "clip_quantile": clip_quantile,
        "clip_momentum": clip_momentum,
        "rotation": spiking.rotation.kind if through else rotation,
        "window": window,
        "refit_tokens": 0 if through else refit_tokens,
    }
    settings = parse_settings(
        FinetuneSettings,
        {
            "source": name,
            "text": label,
            "text_sha256": text_digest(content or repr(examples)),
            "scheme": spiking.model_dump(mode="json") if through else None,
            "task": task,
            "distill_logits": float(asked and distill is not False),
            "distill_hidden": float(asked and distill is not False),
            "clip_roles": split(clip_roles),
            "seed": seed,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "precision": precision,
            "gradient_checkpointing": gradient_checkpointing,
            **{key: value for key, value in wanted.items() if value is not None},
        },
    )
    Clipping.parse({"clip_quantile": clip_quantile, "clip_mode": clip_mode}).check(SpikeConfig())

    from spikeconv.conversion.plan import check_convertible, make_plan
    from spikeconv.data.texts import token_windows
    from spikeconv.families import find_family, refuse_encoder
    from spikeconv.finetune.prepare import clipped_session, load_to_train, spiking_session
    from spikeconv.finetune.refit import enough_to_refit
    from spikeconv.finetune.train import Course, make_accelerator
    from spikeconv.finetune.train import finetune as run
    from spikeconv.loading import find_device
    from spikeconv.sources.resolve import open_named

    opened = open_named(name, trust_remote_code=trust_remote_code)
    check_convertible(opened.config, str(opened.path))
    family = find_family(opened.config)
    if examples is None:
        refuse_encoder(family, "text to be trained on so")
    plan = None
    if not through:
        config = SpikeConfig.parse({"rotation.kind": settings.rotation, "rotation.seed": seed})
        clip = settings.clip_mode, settings.clip_quantile, settings.clip_roles
        plan = make_plan(opened, with_roles(config, family, *clip))
        if refit_tokens is None:
            settings = settings.model_copy(update={"refit_tokens": enough_to_refit(plan)})
    accelerator = make_accelerator(settings, find_device(device).type == "cpu")
    settings = settings.model_copy(update={"processes": accelerator.num_processes})
    loaded = load_to_train(opened, examples, seed)
    windows = None if examples is not None else token_windows(loaded, content, settings.window)
    quiet = quiet or not accelerator.is_main_process
    if not quiet:
        err.print(
            "[note]Training on {label}{tokens}; processes: {settings.processes}.[/]",
            tokens="" if windows is None else f", {windows.numel():,} tokens",
            label=label,
            settings=settings,
        )
    if plan is not None and windows is not None:
        session = clipped_session(loaded, plan.config, settings, windows, target, accelerator)
    else:
        read = examples if windows is None else windows
        assert read is not None
        session = spiking_session(loaded, spiking, settings, read, target, accelerator, tracker(quiet))
    try:
        summary = run(
            session,
            loaded.tokenizer,
            target,
            Course(steps, save_every, log_every, resume, force),
            track=tracker(quiet),
            on_step=lambda result: None if quiet else show_step(result),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on from the last saved state") from None
    if not accelerator.is_main_process:
        return
    if as_json:
        how = {"source": str(opened.path), "settings": settings.model_dump(), "text": label, "versions": installed()}
        print_json({**summary.to_dict(), "measured": how})
        return
    threshold = "" if summary.threshold is None else f", mean τ {summary.threshold:.3f}"
    rate = "" if summary.firing_rate is None else f", firing rate {summary.firing_rate:.3f}"
    out.print(
        "[good]Fine-tuned[/] for {summary.steps} steps ({summary.tokens:,} tokens) in "
        "[number]{summary.seconds:.0f} s[/]: loss {summary.loss:.3f}{threshold}{rate}\n"
        "Saved to [number]{summary.output}[/]",
        summary=summary,
        threshold=threshold,
        rate=rate,
    )


def show_step(result: "StepResult") -> None:
    """One logged step."""
    rate = "" if result.firing_rate is None else f"  rate {result.firing_rate:.3f}"
    lowest, highest = result.lowest_threshold, result.highest_threshold
    thresholds = "" if result.threshold is None else f"  τ {result.threshold:.3f} ({lowest:.3f} to {highest:.3f})"
    err.print(
        "[note]step {result.step}[/]  loss {result.loss:.4f}{thresholds}{rate}  "
        "[note]{result.tokens_per_second:,.0f} tokens/s[/]",
        result=result,
        thresholds=thresholds,
        rate=rate,
    )
