"""Scores are those of lm-eval's own model, though logits are computed only where a continuation is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from spikeconv.evaluate.models import LoadedModel
from spikeconv.integrations.lm_eval import HarnessModel
from spikeconv.progress import silent


def requests(lengths: list[tuple[int, int]]) -> list[Any]:
    """Tokenized (context, continuation) pairs of the given lengths."""
    generator = torch.Generator().manual_seed(1)
    return [
        ((str(i), ""), *(torch.randint(1, 40, (n,), generator=generator).tolist() for n in pair))
        for i, pair in enumerate(lengths)
    ]


CASES = {
    "mixed": [(5, 3), (40, 1), (2, 30), (17, 17), (1, 1), (90, 4), (3, 3), (60, 20)],
    "one token": [(n, 1) for n in range(1, 30)],
    "too long for the model": [(150, 5), (3, 100), (127, 2), (10, 4)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_same_scores(case: str, batch_size: Any, tiny: LoadedModel) -> None:
    model = tiny.model
    plain = HFLM(pretrained=model, tokenizer=tiny.tokenizer, batch_size=1, max_length=128)
    ours = HarnessModel(model, tiny.tokenizer, batch_size, silent)
    ours._max_length = 128
    kept: list[int] = []
    head = model.lm_head.register_forward_hook(lambda _module, args, _out: kept.append(args[0].shape[1]))
    found = ours._loglikelihood_tokens(requests(CASES[case]))
    head.remove()
    for (score, greedy), (expected, also_greedy) in zip(
        found, plain._loglikelihood_tokens(requests(CASES[case]), disable_tqdm=True), strict=True
    ):
        assert greedy == also_greedy and score == pytest.approx(expected, rel=1e-5)
    if case == "one token" and batch_size == "auto":
        assert max(kept) < 29  # not every position went through the head


def test_logits_that_start_too_late_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="too late"):
        HarnessModel._select_cont_toks(SimpleNamespace(), torch.zeros(3, 5), contlen=3, inplen=2)  # type: ignore[arg-type]
