"""What a conversion leaves of an encoder's sentence vectors: the mean of its states over a sentence's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from spikeconv.data.texts import longest_window
from spikeconv.data.tokens import rows_of
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.loading import LoadedModel
from spikeconv.progress import Track, silent

__all__ = ["Similarity", "sentence_vectors", "similarity"]

BATCH = 32


@dataclass(frozen=True)
class Similarity:
    """Two models on the same sentences.

    Attributes:
        sentences: how many.
        mean, least: cosine between the two vectors of a sentence.
        pairs: correlation between the cosines that the two models find for all pairs of sentences: whether what is
            near stays near.
    """

    sentences: int
    mean: float
    least: float
    pairs: float


def sentence_vectors(loaded: LoadedModel, sentences: Sequence[str], track: Track = silent) -> Tensor:
    """Unit vectors [sentences, hidden] float32 on the CPU.

    Raises:
        SpikeconvError: the model is no encoder, there are fewer than two sentences, or a vector is not finite.
    """
    model = loaded.model
    family = family_of(model)
    if not family.encodes:
        raise SpikeconvError(
            f"{family.architecture} predicts tokens, it makes no sentence vectors; `spikeconv perplexity` measures it."
        )
    if len(sentences) < 2:
        raise SpikeconvError(f"Sentence vectors are compared in pairs; there are {len(sentences)} sentences.")
    batches = [sentences[start : start + BATCH] for start in range(0, len(sentences), BATCH)]
    vectors = []
    with torch.inference_mode():
        for batch in track(batches, "reading sentences", len(batches)):
            given = rows_of(model, loaded.tokenizer, batch, longest=longest_window(model))
            ids, mask = (given[name].to(model.device) for name in ("input_ids", "attention_mask"))
            reader = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
            states, shown = reader(ids, attention_mask=mask).last_hidden_state.float(), mask.float()[..., None]
            vectors.append(normalize((states * shown).sum(1) / shown.sum(1), dim=-1).cpu())
    result = torch.cat(vectors)
    if not result.isfinite().all():
        raise SpikeconvError(f"{loaded.name} gives a sentence vector that is not finite.")
    return result


def similarity(found: Tensor, expected: Tensor) -> Similarity:
    """Compare the unit vectors [sentences, hidden] of two models."""
    cosines = (found * expected).sum(-1)
    above = torch.triu_indices(len(found), len(found), 1)
    pairs = torch.stack([(vectors @ vectors.mT)[above[0], above[1]] for vectors in (found, expected)])
    correlation = float(pairs.double().corrcoef()[0, 1]) if pairs.shape[1] > 1 else 1.0
    return Similarity(len(found), float(cosines.mean()), float(cosines.min()), correlation)
