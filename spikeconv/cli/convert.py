"""`spikeconv convert`."""

from pathlib import Path

from spikeconv.calibrate.clipping import Clipping
from spikeconv.calibrate.training_record import check_trained, note_training
from spikeconv.calibrate.windows import Calibration as CalibrationSettings
from spikeconv.checkpoint.folder import remember
from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.convert_options import (
    Arch,
    Assignments,
    AsTrained,
    Balance,
    BiasCorrection,
    Bits,
    Budget,
    Calibration,
    CalibrationSeed,
    CalibrationTokens,
    ClipFrom,
    ClipMode,
    ClipQuantile,
    ClipRatio,
    ClipText,
    ClipTokens,
    ConvertDevice,
    CountRange,
    CountScale,
    Damping,
    DeadZone,
    DeleteSourceShards,
    DryRun,
    FloatDtype,
    Force,
    Importance,
    Jobs,
    LogFile,
    MaxMemory,
    MaxShardSize,
    Output,
    Override,
    Restart,
    Rotation,
    Scheme,
    Seed,
    ShardOption,
    Skip,
    SpikePrice,
    Step,
    Steps,
    WeightClip,
    Weights,
)
from spikeconv.cli.encoding_options import (
    Alpha,
    Codec,
    IntegerDigits,
    K,
    KvBits,
    KvCode,
    KvGroup,
    KvLowShare,
    KvRange,
    KvSlots,
    KvSteps,
    Layers,
    LowShare,
    Reset,
    SalientBits,
    SalientMode,
    SlotOverflow,
    Slots,
    TemporalCode,
    TimeSteps,
)
from spikeconv.cli.failure import convenience
from spikeconv.cli.measured import installed
from spikeconv.cli.options import AsJson, ClipRoles, Quiet, Source, TrustRemoteCode
from spikeconv.cli.settings import build_config, model_name, number
from spikeconv.cli.sharing import check_place, command_line, end_if_published, parse_shard
from spikeconv.cli.show_conversion import show_foreseen, show_plan, show_summary
from spikeconv.conversion.log import check_log
from spikeconv.conversion.wanted import Search
from spikeconv.errors import SpikeconvError
from spikeconv.sizes import DEFAULT_SHARD_SIZE, parse_size
from spikeconv.sources.presets import DEFAULT_MODEL

__all__ = ["convert"]


def convert(
    source: Source = None,
    output: Output = None,
    bits: Bits = None,
    steps: Steps = None,
    count_range: CountRange = None,
    clip_ratio: ClipRatio = None,
    count_scale: CountScale = None,
    step: Step = None,
    dead_zone: DeadZone = None,
    rotation: Rotation = None,
    balance: Balance = None,
    weight_clip: WeightClip = None,
    weights: Weights = None,
    damping: Damping = None,
    importance: Importance = None,
    bias_correction: BiasCorrection = None,
    codec: Codec = None,
    layers: Layers = None,
    integer_digits: IntegerDigits = None,
    time_steps: TimeSteps = None,
    k: K = None,
    alpha: Alpha = None,
    reset: Reset = None,
    salient_bits: SalientBits = None,
    low_share: LowShare = None,
    salient_mode: SalientMode = None,
    temporal_code: TemporalCode = None,
    slots: Slots = None,
    slot_overflow: SlotOverflow = None,
    kv_bits: KvBits = None,
    kv_steps: KvSteps = None,
    kv_range: KvRange = None,
    kv_group: KvGroup = None,
    kv_low_share: KvLowShare = None,
    kv_code: KvCode = None,
    kv_slots: KvSlots = None,
    clip_quantile: ClipQuantile = None,
    clip_mode: ClipMode = None,
    clip_roles: ClipRoles = None,
    clip_text: ClipText = None,
    clip_tokens: ClipTokens = 8192,
    clip_from: ClipFrom = None,
    as_trained: AsTrained = False,
    calibration: Calibration = None,
    calibration_tokens: CalibrationTokens = None,
    calibration_seed: CalibrationSeed = None,
    budget: Budget = None,
    spike_price: SpikePrice = None,
    seed: Seed = None,
    arch: Arch = None,
    scheme: Scheme = None,
    assignments: Assignments = None,
    skip: Skip = None,
    override: Override = None,
    dtype: FloatDtype = "auto",
    dry_run: DryRun = False,
    force: Force = False,
    restart: Restart = False,
    shard: ShardOption = None,
    log_file: LogFile = None,
    jobs: Jobs = None,
    device: ConvertDevice = "cpu",
    max_memory: MaxMemory = None,
    max_shard_size: MaxShardSize = DEFAULT_SHARD_SIZE,
    delete_source_shards: DeleteSourceShards = False,
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
        "importance": importance,
        "bias_correction": bias_correction,
        "codec": codec,
        "layers": layers,
        "integer_digits": integer_digits,
        "time_steps": time_steps,
        "k": k,
        "alpha": alpha,
        "reset": reset,
        "salient_bits": salient_bits,
        "low_share": low_share,
        "salient_mode": salient_mode,
        "temporal_code": temporal_code,
        "slots": slots,
        "slot_overflow": slot_overflow,
        "kv_bits": kv_bits,
        "kv_steps": kv_steps,
        "kv_range": kv_range,
        "kv_group": 0 if kv_group == "head_dim" else kv_group,
        "kv_low_share": kv_low_share,
        "kv_code": kv_code,
        "kv_slots": kv_slots,
        "seed": seed,
    }
    config = build_config(scheme, options, assignments or [], skip or [], override or [])
    said = scheme or assignments or skip or override or any(value is not None for value in options.values())
    if as_trained and said:
        raise SpikeconvError("--as-trained brings all settings of the conversion; leave the others out.")
    if source is None and clip_from is not None:
        source = str(clip_from)
    if source is None and not quiet:
        err.print("[note]No SOURCE given; converting the embedded model {model}.[/]", model=DEFAULT_MODEL)

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
    texts = CalibrationSettings.parse(
        {
            "calibration": calibration,
            "calibration_tokens": calibration_tokens,
            "calibration_seed": calibration_seed,
        }
    )
    auto = [name for name, value in (("clip_ratio", clip_ratio), ("count_scale", count_scale)) if value == "auto"]
    wanted = Search.parse({"budget": budget, "auto": auto, "spike_price": spike_price})
    clipping.check(config)
    texts.check()
    name = source or DEFAULT_MODEL
    target = output or Path(f"{model_name(name)}-{config.bits}")
    check_log(log_file, target)
    alone = {"--force": force, "--restart": restart, "--delete-source-shards": delete_source_shards}
    part = parse_shard(shard, output, config, alone)
    if as_trained:  # what is called after its settings is known when they are
        check_trained(Path(name))
    elif not dry_run:
        check_place(target, force, part, as_json)
    if delete_source_shards and Path(name).exists():
        raise SpikeconvError(f"{name} was not fetched from the hub; --delete-source-shards deletes nothing else.")

    from spikeconv.conversion.described import described
    from spikeconv.conversion.foresee import foresee
    from spikeconv.conversion.log import ConversionLog
    from spikeconv.conversion.pipeline import convert as run
    from spikeconv.conversion.recipe import plan_conversion
    from spikeconv.conversion.writing import Writing, default_jobs
    from spikeconv.loading import find_device, has_tokenizer, parse_dtype
    from spikeconv.sources.outline import open_or_outline
    from spikeconv.sources.resolve import open_named

    def note(text: str) -> None:
        if not quiet:
            err.print("[note]{text}[/]", text=text)

    float_dtype = parse_dtype(dtype)
    most = None if max_memory is None else parse_size(max_memory, "--max-memory")
    writing = Writing(
        shard_bytes=parse_size(max_shard_size, "--max-shard-size"),
        jobs=jobs or default_jobs(),
        device=find_device(device),
        max_memory=most,
        force=force,
        restart=restart,
        shard=part,
    )
    if dry_run:
        opened = open_or_outline(name, trust_remote_code=trust_remote_code, arch=arch)
    else:
        opened = open_named(
            name, trust_remote_code=trust_remote_code, delete_shards=delete_source_shards, arch=arch, note=note
        )
    trained = note_training(opened.path, as_trained, note)
    if trained is not None:
        config = trained.settings()
        target = output or Path(f"{model_name(name)}-{config.bits}")
        if not dry_run:
            check_place(target, force, part, as_json)
    plan = plan_conversion(
        opened,
        config,
        clipping,
        texts,
        wanted,
        dtype=float_dtype,
        calibrate=not dry_run,
        max_memory=most,
        track=tracker(quiet),
        note=note,
        trained=trained,
    )
    words = described(plan, clipping, texts, wanted, trained is not None)
    settings = plan.config.model_dump(mode="json")
    calibrated = None if plan.calibration is None else plan.calibration.record
    told = {
        "measured": {
            "source": str(opened.path),
            "settings": settings,
            "in words": dict(words),
            "calibration": calibrated,
            "versions": installed(),
        }
    }
    if dry_run:
        foreseen = foresee(opened, plan, float_dtype, writing, target, searches=wanted.asked)
        if as_json:
            print_json({**plan.to_dict(), **told, **foreseen.to_dict()})
        else:
            show_plan(plan, words, str(opened.path), out)
            show_foreseen(foreseen)
        foreseen.check()
        return
    if not quiet:
        show_plan(plan, words, str(opened.path), err)
    try:
        with ConversionLog(log_file, target) as log:
            summary = run(
                opened,
                plan,
                target,
                command=command_line(),
                dtype=float_dtype,
                writing=writing,
                track=tracker(quiet),
                log=log,
                note=note,
            )
    except SpikeconvError:
        end_if_published(target, part, as_json)
        raise
    except KeyboardInterrupt as stop:
        raise type(stop)(f"{target} is not complete; the same command goes on with it") from None
    if not has_tokenizer(target):
        err.print(
            "[bad]warning:[/] {source} has no tokenizer, so {target} does not become the default of other commands: "
            "copy one into it (tokenizer.json, tokenizer_config.json), and name it.",
            source=name,
            target=target,
        )
    else:
        with convenience("this checkpoint will not be the default of other commands"):
            remember(target)
    print_json({**summary.to_dict(), **told}) if as_json else show_summary(summary, words)
    if not quiet and config.sends_each_spike and scheme is None and balance is None:
        err.print("[note]About one spike for any count, a better model: --scheme ramp-5 (docs/temporal-codes.md).[/]")
