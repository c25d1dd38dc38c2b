"""Proves a checkpoint: same bits in every execution, every module used, files intact, the source's weights in it."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.checkpoint.folder import has_record, read_record, resolve_checkpoint
from spikeconv.data.sample import sample_text
from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.families import family_of
from spikeconv.integrations.attention import float_caches
from spikeconv.integrations.engine import modules_only
from spikeconv.loading import LoadedModel, load_tokenizer
from spikeconv.nn import attention_codes, spike_linears
from spikeconv.progress import Track, silent
from spikeconv.sources.resolve import resolve_source
from spikeconv.verification.attention import compare_attention
from spikeconv.verification.check import check_files
from spikeconv.verification.engine import compare_engine
from spikeconv.verification.executions import compare_executions
from spikeconv.verification.result import VerifyResult
from spikeconv.verification.source import compare_with_source

__all__ = ["verify", "verify_any", "verify_model"]


def verify(
    loaded: LoadedModel, text: str, *, tokens: int = 32, source: bool | Path = True, track: Track = silent
) -> VerifyResult:
    """Check a loaded checkpoint on the first tokens of a text.

    Args:
        loaded: the checkpoint.
        text: real text; its activations drive the comparison.
        tokens: how many tokens of it.
        source: also compare with the float source, where that is known and there; a path names it.
        track: progress display.

    Raises:
        SpikeconvError: the text is empty.
    """
    ids = text_ids(loaded.model, loaded.tokenizer, text)[None, :tokens]
    if not ids.numel():
        raise SpikeconvError("The text is empty; give one with at least one token.")
    return verify_model(loaded.model, ids, loaded.path, source=source, track=track)


def verify_any(
    checkpoint: str | Any,
    text: str | None,
    *,
    tokens: int,
    source: bool | str | os.PathLike[str],
    device: str,
    trust_remote_code: bool,
) -> VerifyResult:
    """Check a checkpoint by its path, or a loaded model.

    A model that was converted in memory has neither tokenizer nor files; it runs on token ids drawn at random.
    """
    if type(tokens) is not int or tokens < 1:
        raise SpikeconvError(f"tokens must be a positive whole number, not {tokens!r}.")
    wanted = source if isinstance(source, bool) else resolve_source(os.fspath(source))
    if isinstance(checkpoint, str):
        path = resolve_checkpoint(Path(checkpoint))
        loaded = load_checkpoint(path, device=device, trust_remote_code=trust_remote_code)
        return verify(loaded, sample_text() if text is None else text, tokens=tokens, source=wanted)
    if not spike_linears(checkpoint) and not attention_codes(checkpoint):
        raise SpikeconvError(f"This {type(checkpoint).__name__} is not converted: there is nothing to verify.")
    architecture = family_of(checkpoint).architecture
    if all(base.__name__ != architecture for base in type(checkpoint).__mro__):
        raise SpikeconvError(f"A {type(checkpoint).__name__} gives no logits to verify; load it as {architecture}.")
    if any(tensor.is_meta for tensor in (*checkpoint.parameters(), *checkpoint.buffers())):
        raise SpikeconvError("Parts of the model are on disk or another device; verify its checkpoint by its path.")
    path = Path(checkpoint.config._name_or_path)
    if has_record(path):
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        loaded = LoadedModel(checkpoint, tokenizer, path, path.name)
        return verify(loaded, sample_text() if text is None else text, tokens=tokens, source=wanted)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, checkpoint.config.get_text_config().vocab_size, (1, tokens), generator=generator)
    return verify_model(checkpoint, ids, None)


def verify_model(
    model: Any, ids: Tensor, path: Path | None, *, source: bool | Path = True, track: Track = silent
) -> VerifyResult:
    """Check a converted model.

    Args:
        model: the model.
        ids: token ids [1, tokens].
        path: its checkpoint, or None for a model that was converted in memory.
        source: also compare with the float source, where that is known and there; a path names it.
        track: progress display.
    """
    result = VerifyResult(tokens=ids.shape[1])
    ids = ids.to(model.device)
    compare_engine(model, ids, result)
    with modules_only(model):
        _compare_modules(model, ids, path, source, result, track)
    return result


def _compare_modules(
    model: Any, ids: Tensor, path: Path | None, source: bool | Path, result: VerifyResult, track: Track
) -> None:
    compare_executions(model, ids, result, track)
    compare_attention(model, ids, result)
    result.float_caches = float_caches(model, ids[:, :2])
    if path is None:
        result.notes.append("the model has no checkpoint: neither files nor source were looked at")
        return
    if not has_record(path):
        result.notes.append("the record of its conversion is not there: neither files nor source were looked at")
        return
    record = read_record(path)
    result.changed_files = sorted({damage.file for damage in check_files(path).damages})
    if source:
        compare_with_source(model, ids, record, path, result, None if source is True else source)
