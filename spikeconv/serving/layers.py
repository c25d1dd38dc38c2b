"""The linears of a checkpoint as vLLM has them: q, k and v in one, gate and up in one; and what it cannot run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spikeconv.config import LinearScheme, NeuronInputs, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear, find_family

__all__ = ["FUSED", "MODELS", "FusedLinear", "check_engine", "check_settings", "check_split", "fused_linears"]

MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose decoders vLLM builds of the layers that the plug-in fills."""

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
"""vLLM's `packed_modules_mapping` of those families: linears of one input whose outputs stand side by side."""

PLACES = {member: fused for fused, members in FUSED.items() for member in members}


@dataclass(frozen=True)
class FusedLinear:
    """What one of vLLM's linears computes.

    Attributes:
        name: vLLM's.
        group: its members' in the checkpoint, as `ModuleLinear.group`.
        scheme: of all of them.
        folds: whether something in front takes in the factors of a balanced input, as `ModuleLinear.folds`.
        zero_share: measured share of zero counts, or 0.
    """

    name: str
    group: str
    scheme: LinearScheme
    folds: bool
    zero_share: float


def fused_linears(
    config: SpikeConfig, hf_config: Any, zero_share: Mapping[str, float] | None = None
) -> dict[str, FusedLinear]:
    """The linears that vLLM is to compute with spikes, by vLLM's names; the others stay float.

    Args:
        config: the conversion's settings.
        hf_config: of the model.
        zero_share: measured shares by linear.

    Raises:
        SpikeconvError: vLLM cannot run such a model, or such settings.
    """
    check_settings(config)
    text, named = hf_config.get_text_config(), hf_config.architectures
    family = find_family({"model_type": text.model_type, "architectures": named})
    if family.model_type not in MODELS or named not in (None, [family.architecture]):
        raise SpikeconvError(
            f"vLLM runs converted models of {', '.join(MODELS)} that predict tokens, not "
            f"{' or '.join(named or [text.model_type])}; load it with transformers."
        )
    together: dict[str, list[ModuleLinear]] = {}
    for linear in family.layout(text):
        above, _, last = linear.name.rpartition(".")
        together.setdefault(f"{above}.{PLACES.get(last, last)}", []).append(linear)
    shares, result = zero_share or {}, {}
    for name, members in together.items():
        schemes = [config.for_linear(linear.name, linear.role) for linear in members]
        first = schemes[0]
        for linear, scheme in zip(members, schemes, strict=True):
            if scheme != first:
                raise SpikeconvError(_differ(members[0], linear, first, scheme))
        if first is not None:
            _check_inputs(first)
            share = max(shares.get(linear.name, 0.0) for linear in members)
            result[name] = FusedLinear(name, members[0].group, first, all(linear.folds for linear in members), share)
    return result


def check_settings(config: SpikeConfig) -> None:
    """Refuse a conversion that vLLM cannot run as it is.

    Raises:
        SpikeconvError: naming the setting.
    """
    if config.kv is not None:
        raise SpikeconvError(
            f"kv_bits={config.kv.bits}: vLLM keeps keys and values in a cache of its own, which holds no spike counts; "
            "convert without --kv-bits, or generate with transformers."
        )
    _check_inputs(config)


def _check_inputs(scheme: LinearScheme) -> None:
    if isinstance(scheme.inputs, NeuronInputs):
        raise SpikeconvError(
            f"codec={scheme.inputs.codec}: its neurons run {scheme.inputs.time_steps} streams through every layer, "
            "which vLLM's layers do not; generate with transformers."
        )


def check_engine(vllm_config: Any) -> None:
    """Refuse what vLLM can do with other linears, but not with these.

    Raises:
        SpikeconvError: naming vLLM's option.
    """
    offload = vllm_config.offload_config
    asked = {
        "--enable-lora": vllm_config.lora_config is not None,
        "--quantization-config": getattr(vllm_config.quant_config, "online_quantization_config", None) is not None,
        "--cpu-offload-gb": offload.uva.cpu_offload_gb > 0,
        "--offload-group-size": offload.prefetch.offload_group_size > 0,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise SpikeconvError(f"vLLM's {option} does not work on converted linears; leave it out.")


def check_split(hf_config: Any, ranks: int) -> None:
    """Refuse a number of tensor-parallel ranks that does not divide a model.

    The rows of every weight are split, so what is divided is outputs: heads, inner and hidden size. Of the key heads
    there may be fewer than ranks, which then share them.

    Raises:
        SpikeconvError: naming a size that is not divided, and the numbers that divide all.
    """
    text = hf_config.get_text_config()
    sizes = {
        "attention heads": text.num_attention_heads,
        "key heads": text.num_key_value_heads,
        "inner size": text.intermediate_size,
        "hidden size": text.hidden_size,
    }
    if not (refused := _undivided(sizes, ranks)):
        return
    possible = [str(n) for n in range(1, text.num_attention_heads + 1) if not _undivided(sizes, n)]
    raise SpikeconvError(
        f"Tensor parallelism over {ranks} does not divide the model's {refused} ({sizes[refused]}); possible here: "
        f"{', '.join(possible)}."
    )


def _undivided(sizes: Mapping[str, int], ranks: int) -> str | None:
    """The first size that so many ranks do not divide."""
    return next((what for what, n in sizes.items() if n % ranks and (what != "key heads" or ranks % n)), None)


def _differ(one: ModuleLinear, other: ModuleLinear, a: LinearScheme | None, b: LinearScheme | None) -> str:
    first, second = ("not converted" if scheme is None else f"converted to {scheme.bits}" for scheme in (a, b))
    how = f"{one.name} is {first}, {other.name} {second}" if first != second else f"{one.name} and {other.name} differ"
    return f"vLLM computes them as one linear, but {how}; convert them with the same settings (--override, --skip)."
