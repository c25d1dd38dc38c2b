"""Compares a converted model with its float source, read by another reader than the one that converted it.

Everything that stayed float must be the source's, exactly. A converted weight must be the source's, rotated and
rounded to the nearest: |q - clamp(w / s)| ≤ 1/2 in every place, whatever range the scale s was searched in. One that
was calibrated is not the nearest, by design: of it the scales must be above 0, and its distance from the source must be
what the record says. And the rotation alone must leave the logits as they are. Where inputs are balanced, all that
holds of the balanced source, and balance and rotation together must leave the logits as they are.
"""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.checkpoint.balance import BALANCE, read_balance
from spikeconv.checkpoint.folder import source_arch, source_path
from spikeconv.config import FLOAT_BITS, SpikeConfig
from spikeconv.conversion.linear import rotated_weight
from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.families import family_of, find_family, folded_norms, output_of
from spikeconv.nn import SpikeLinear, row_sums, spike_linears
from spikeconv.quiet import quiet_transformers
from spikeconv.sources.float_model import load_float
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.resolve import open_source
from spikeconv.verification.balance import balance_model
from spikeconv.verification.files import second_weights
from spikeconv.verification.result import ERROR_TOLERANCE, ROUNDING_TOLERANCE, VerifyResult
from spikeconv.verification.rotation import rotate_only, rotation_error_alone
from spikeconv.weights import rounding_of

__all__ = ["compare_with_source", "read_source"]


def compare_with_source(
    model: Any, ids: Tensor, record: dict[str, Any], checkpoint: Path, result: VerifyResult, named: Path | None = None
) -> None:
    """Compare a converted model with the float model that its record names, if that is still there.

    Args:
        model: a converted model.
        ids: token ids [batch, tokens] on its device.
        record: the checkpoint's `spikeconv.json`.
        checkpoint: its folder.
        result: where to note what is found.
        named: what the user says the source is.
    """
    try:
        path = source_path(checkpoint, named)
    except SpikeconvError as error:
        result.notes.append(f"weights and rotation, with the source. {error}")
        return
    if path is None:
        result.notes.append("the source was a model in memory: weights and rotation not compared with it")
        return
    arch = source_arch(checkpoint)
    source, result.source_reader = read_source(path, arch)
    if result.source_reader != "transformers":
        result.notes.append(f"transformers cannot read {path}: the source was read by the reader that converted it")
    source = source.to(model.device)
    config = SpikeConfig.parse(record["config"])
    result.second_weights = second_weights(path) if path.is_dir() else []
    with torch.inference_mode():
        expected = output_of(source(ids, use_cache=False))
    diagonals: dict[str, Tensor] = {}
    if BALANCE in record["files"]:
        if (balance := read_balance(checkpoint)) is None:
            result.notes.append(f"{BALANCE} is gone: weights and rotation not compared with the source")
            return
        diagonals, kept = balance
        balance_model(source, open_source(path, arch=arch), diagonals, kept)
    compare_tensors(model, source, config, record["layers"], result, diagonals)
    with torch.inference_mode():
        if family_of(source).fires:
            result.rotation_error = rotation_error_alone(source, ids, config)
            result.rotation_of = "the outputs of the source's linears, each by itself,"
        else:
            rotate_only(source, config)
            found = output_of(source(ids, use_cache=False))
            result.rotation_of = "the source's states" if family_of(source).encodes else result.rotation_of
            result.rotation_error = float((found - expected).abs().max() / expected.abs().max())


def read_source(path: Path, arch: str | None = None) -> tuple[Any, str]:
    """A float model in float32 on the CPU, and what read it: `transformers`, or `spikeconv` for what it cannot read.

    Raises:
        SpikeconvError: it cannot be read at all.
    """
    opened = open_source(path, arch=arch)
    config = hf_config(opened.config)
    options: dict[str, Any] = {"config": config}
    if path.suffix.lower() == ".gguf" and len(opened.weight_files()) == 1:  # transformers knows no split files
        folder, options["gguf_file"] = path.parent, path.name
    elif path.is_dir():
        folder = path
    else:
        return load_float(opened, device="cpu", dtype="float32").model, "spikeconv"
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # it draws a bar of its own for a GGUF file
            auto_model = find_family(opened.config).auto_model(config.architectures)
            model = auto_model.from_pretrained(folder, dtype=torch.float32, **options)
    except Exception as error:  # whatever it makes of somebody's files
        raise SpikeconvError(f"The source {path} cannot be loaded with transformers: {reason_of(error)}") from error
    return model.eval(), "transformers"


def compare_tensors(
    model: Any,
    source: Any,
    config: SpikeConfig,
    layers: Mapping[str, Any],
    result: VerifyResult,
    diagonals: Mapping[str, Tensor] | None = None,
) -> None:
    """Compare every tensor of a converted model with that of its float source, which is in float32.

    Args:
        model: the converted model.
        source: the float model.
        config: the settings of the conversion.
        layers: what its record says of every converted linear.
        result: where to note what is found.
        diagonals: the factors d of inputs, by group.
    """
    linears = spike_linears(model)
    layout = family_of(model).layout(model.config.get_text_config())
    folded = folded_norms(layout, linears) if config.rotation.kind == "quarot" else {}
    kinds = {linear.norm: linear.norm_kind for linear in layout if linear.norm}
    gammas = {linear: kinds[norm].gamma(source.get_submodule(norm).weight.data) for linear, norm in folded.items()}
    expected = source.state_dict()
    groups = {linear.name: linear.group for linear in layout}
    seen = set()
    for name, tensor in _float_tensors(model):
        seen.add(name)
        module = name.rpartition(".")[0]
        if name not in expected:
            if not isinstance(model.get_submodule(module), SpikeLinear):  # else W c, compared with the weight
                result.different_tensors.append(name)
            continue
        if isinstance(own := linears.get(module), SpikeLinear) and (own.scheme.weights.has_bias or own.encoder.center):
            continue  # the source's and a correction, or W c
        result.float_tensors += 1
        wanted, tolerance = expected[name].to(tensor.device), 0.0
        if module in gammas and name.endswith(".weight"):  # QuaRot folded γ into a linear that stays float
            wanted, tolerance = wanted * gammas[module], 2.0**-7
        elif module in folded.values():
            wanted = torch.full_like(wanted, kinds[module].neutral)
        if not _close(tensor, wanted, tolerance):
            result.different_tensors.append(name)
    for name, linear in linears.items():
        seen.add(f"{name}.weight")
        plain, gamma = source.get_submodule(name), gammas.get(name)
        balance = None if linear.input_balance is None else (diagonals or {}).get(groups[name])
        if linear.scheme.weights.is_calibrated:
            error, same = _compare_calibrated(linear, plain, gamma, layers.get(name, {}).get("relative_error"))
            result.calibrated += 1
            result.calibrated_error = max(error, result.calibrated_error or 0.0)
        else:
            error, same = _compare_linear(linear, plain, gamma, balance)
            result.rounding_error = max(error, result.rounding_error or 0.0)
        if not same:
            result.different_weights.append(name)
    tied = set(source.all_tied_weights_keys)
    result.different_tensors += [name for name in expected if name not in seen and name not in tied]


def _float_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers that are not those of a converted linear; its bias is."""
    found: list[tuple[str, Tensor]] = [*model.named_parameters()]
    for path, module in model.named_modules():
        if isinstance(module, SpikeLinear):
            continue
        buffers = module.named_buffers(path, recurse=False)
        transient = {f"{path}.{name}".lstrip(".") for name in module._non_persistent_buffers_set}
        found += [(name, buffer) for name, buffer in buffers if name not in transient]
    return found


def _compare_linear(
    linear: SpikeLinear, plain: Any, gamma: Tensor | None, balance: Tensor | None
) -> tuple[float, bool]:
    """Largest distance from the source in steps of the scale (0 for float weights), and whether all is right."""
    weight = plain.weight.data.to(linear.weight.device)
    balance = None if balance is None else balance.to(weight.device)
    rotated = rotated_weight(weight, linear.scheme, gamma, balance)
    same, error = _bias_is_right(linear, plain) and _balance_is_right(linear, balance), 0.0
    if linear.weight_scale is None:
        return error, same and _close(linear.weight.squeeze(1), rotated, 2.0**-7)
    bits = linear.scheme.weights.bits
    assert bits != FLOAT_BITS
    values = linear.integers()
    if linear.scheme.weights.keeps_signs:
        packed, scale, *_ = rounding_of(linear.scheme.weights)(rotated)
        wanted = ops.unpack(packed, linear.in_features)
        return error, same and torch.equal(values, wanted) and _close(linear.weight_scale, scale, 1e-6)
    top = 2 ** (bits - 1) - 1
    steps = (rotated / linear.weight_scale[:, None]).clamp_(-top - 1, top)
    error = float((values - steps).abs().max())
    if linear.weight_sum is not None:
        same = same and torch.equal(linear.weight_sum, row_sums(values, linear.input_salient))
    return error, same and error <= ROUNDING_TOLERANCE  # NaN is not


def _compare_calibrated(
    linear: SpikeLinear, plain: Any, gamma: Tensor | None, recorded: float | None
) -> tuple[float, bool]:
    """‖Ŵ - W‖ / ‖W‖ of a calibrated weight, and whether it is the recorded one and the scales and sums are possible."""
    assert linear.weight_scale is not None
    rotated = rotated_weight(plain.weight.data.to(linear.weight.device), linear.scheme, gamma).double()
    norm = float(rotated.norm())
    error = float((linear.float_weight().double() - rotated).norm()) / norm if norm > 0 else 0.0
    same = recorded is not None and abs(error - recorded) <= ERROR_TOLERANCE * recorded
    if linear.weight_sum is not None:
        same = same and torch.equal(linear.weight_sum, row_sums(linear.integers(), linear.input_salient))
    return error, same and bool((linear.weight_scale > 0).all())


def _bias_is_right(linear: SpikeLinear, plain: Any) -> bool:
    """Whether the constant part of the input that is taken off comes back as the bias W c."""
    center = linear.encoder.center
    if center is None or linear.bias is None:
        return True
    weight = plain.weight.data.to(linear.bias.device)
    wanted = (weight.double() @ center.bias.data.double()).float()
    if plain.bias is not None:
        wanted = wanted + plain.bias.data.float().to(wanted.device)
    return _close(linear.bias.data, wanted, 2.0**-7)


def _balance_is_right(linear: SpikeLinear, balance: Tensor | None) -> bool:
    """Whether the encoder multiplies by the factors that the weight is divided by."""
    found = linear.input_balance
    return found is None if balance is None else found is not None and torch.equal(found, balance)


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors are equal in the dtype of the first, or differ by no more than a share of the largest."""
    if found.shape != expected.shape:
        return False
    expected = expected.to(found.dtype)
    if tolerance == 0:
        return torch.equal(found.data, expected)
    bound = tolerance * expected.abs().max()
    return bool(((found.data - expected).abs() <= bound).all())
