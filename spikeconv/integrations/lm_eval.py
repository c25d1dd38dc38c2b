"""lm-eval around a loaded model: our progress, batches sized by memory, tokens counted, nothing printed."""

import collections
import io
import logging
import os
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.tasks
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spikeconv.data.tokens import check_tokens
from spikeconv.engine import Engine, score
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.integrations.engine import engine_of
from spikeconv.integrations.head import likelihoods_by
from spikeconv.loading import device_of
from spikeconv.progress import Track
from spikeconv.ranks import ALONE, Ranks

__all__ = ["HarnessModel", "hub_tasks", "results_of", "run_harness", "yaml_task"]

CPU_BATCH_TOKENS = 512
LOGITS_BYTES = 2**30
"""What bounds a batch: on a CPU its tokens (more only add padding), on a GPU the bytes of float32 logits."""

RECURRENT_TOKENS = 2**16
"""Tokens of a text that a recurrent model is given at most; it has no limit of its own."""

BOOTSTRAP_ITERATIONS = 200
"""Enough for the error of a perplexity or F1; an accuracy's is in closed form."""


REPLACED = ("_loglikelihood_tokens", "_model_call", "_select_cont_toks", "_batch_scheduler", "_detect_batch_size")
"""Internals of lm-eval's that are replaced here: under other names they would run as they are, on logits of ours."""


class HarnessModel(HFLM):  # type: ignore[misc]  # lm-eval ships no types
    """A model as lm-eval sees it. `batch_size`: sequences or "auto"; `ranks`: processes that share the requests.

    lm-eval's own way to share them is not taken: every process has all requests and gets all answers, in order, so that
    whatever is computed of them is as in one process.

    `tokens` counts what went through: padding too, where there is any, and what the engine computes for several
    requests at once only once.
    """

    batch_size_per_gpu: Any

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | str,
        track: Track,
        ranks: Ranks = ALONE,
    ) -> None:
        if lost := [name for name in REPLACED if not hasattr(HFLM, name)]:
            raise SpikeconvError(
                f"This lm-eval's HFLM has no {lost[0]}: it is newer than spikeconv; install an older one."
            )
        self.recurrent = family_of(model).recurrent
        longest = RECURRENT_TOKENS if self.recurrent else None
        with _quiet():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=longest)
        self._device = device_of(model)
        self.tokens = 0
        self._track, self._ranks = track, ranks
        self._progress: Iterator[int] = iter(())
        self._batch_end = 0
        self._batch_length = 1
        self._tail = 0  # 0: logits of all positions

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """As HFLM's, without its bars (ours shows the slow part)."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        longest = max((len(continuation) for _, _, continuation in requests), default=0)
        self._check_length(longest, "an answer")
        lengths = [len(context) + len(continuation) for _, context, continuation in requests]
        return self._shared(requests, lengths, partial(self._score, override_bs=override_bs))

    def _score(self, requests: Any, override_bs: int | None) -> Any:
        self._progress = iter(self._track(range(len(requests)), "scoring answers", len(requests)))
        self._tail = 0  # a batch of a set size does not ask the scheduler
        try:
            if (engine := self._engine(requests)) is not None:
                return self._by_engine(engine, requests)
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
        finally:
            # The rest are answers that shared a forward pass; the end closes the bar.
            collections.deque(self._progress, maxlen=0)

    def _engine(self, requests: Any) -> Engine | None:
        """The engine for these requests; None where the model runs otherwise."""
        positions = max((len(context) + len(continuation) for _, context, continuation in requests), default=1)
        return engine_of(self.model, min(positions, self.max_length))

    def _by_engine(self, engine: Engine, requests: Any) -> list[tuple[float, bool]]:
        """As HFLM's, but every text as long as it is, and what several have in common once."""
        most = self.batch_size if isinstance(self.batch_size, int) else None
        pairs = [(context, continuation) for _, context, continuation in requests]
        answers = [(0.0, False)] * len(pairs)
        likelihoods = likelihoods_by(self.model.get_output_embeddings())
        with torch.inference_mode():
            for call in score(engine, likelihoods, pairs, self.max_length, most):
                self.tokens += call.tokens
                for request, log_likelihood, is_greedy in call.answers:
                    answers[request] = answer = (log_likelihood, is_greedy)
                    if (key := requests[request][0]) is not None:  # the parts of a rolling one have no key
                        self.cache_hook.add_partial("loglikelihood", key, answer)
                    next(self._progress, None)
        return answers

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As HFLM's, but a recurrent model reads one text at a time, for batches of texts are padded on the left."""
        asked = [normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"] for request in requests]
        self._check_length(max(asked, default=0) + 1, "an answer and one token of its question")
        lengths = [len(request.args[0]) for request in requests]
        return self._shared(requests, lengths, partial(self._generate, disable_tqdm=disable_tqdm))

    def _generate(self, requests: Any, disable_tqdm: bool) -> Any:
        batch_size = self.batch_size_per_gpu
        if self.recurrent:
            self.batch_size_per_gpu = 1
        try:
            return super().generate_until(requests, disable_tqdm)
        finally:
            self.batch_size_per_gpu = batch_size

    def _shared(self, requests: Sequence[Any], lengths: Sequence[int], answer: Callable[[Any], Sequence[Any]]) -> Any:
        """The answers to requests, in their order; each process answers those that stand together in its share.

        What has its context in common stands together, and is computed once.
        """
        if self._ranks.count == 1 or not requests:
            return answer(requests)
        ranks, ends = self._ranks, list(accumulate(lengths))
        mine = [index for index, end in enumerate(ends) if (end - 1) * ranks.count // ends[-1] == ranks.rank]
        answers = answer([requests[index] for index in mine]) if mine else []
        return [each for part in ranks.gather(list(answers)) for each in part]

    def tok_encode(self, *arguments: Any, **options: Any) -> Any:
        """As HFLM's, but all tokens are the model's."""
        ids = super().tok_encode(*arguments, **options)
        check_tokens(self.model, ids)
        return ids

    def _check_length(self, tokens: int, what: str) -> None:
        # lm-eval would assert it, or under `python -O` score something else.
        if tokens > self.max_length:
            raise SpikeconvError(
                f"The tasks have {what} of {tokens} tokens; the model reads at most {self.max_length}. "
                "Choose tasks with shorter answers."
            )

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            logits = self.model(inps, logits_to_keep=self._tail).logits
        for _ in inps:
            next(self._progress, None)
        return logits

    def _select_cont_toks(self, logits: torch.Tensor, contlen: int | None = None, inplen: int | None = None) -> Any:
        # lm-eval counts `inplen` from the first position that the logits cover.
        if inplen is None or contlen is None or inplen < contlen:
            raise RuntimeError("the logits start too late")
        return logits[inplen - contlen : inplen]

    def _batch_scheduler(self, pos: int, n_reordered_requests: Sequence[Any]) -> int:
        # lm-eval asks at every request; they come by falling length, so the first of a batch sets its size.
        if pos == 0 or pos >= self._batch_end:
            _, context, continuation = n_reordered_requests[pos]
            self._batch_length = self._sequences(len(context) + len(continuation))
            self._batch_end = pos + self._batch_length
            self._tail = self._scored_tail(n_reordered_requests[pos : self._batch_end])
        return self._batch_length

    def _scored_tail(self, requests: Sequence[Any]) -> int:
        """Last positions of a padded batch that hold all continuations: the head and the softmax run on these only."""
        ends = [min(len(context) + len(continuation) - 1, self.max_length) for _, context, continuation in requests]
        starts = [end - len(continuation) for end, (_, _, continuation) in zip(ends, requests, strict=True)]
        return int(max(ends) - max(0, min(starts)))

    def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        return self._sequences(self.max_length)

    def _sequences(self, length: int) -> int:
        budget = CPU_BATCH_TOKENS
        if self.device.type != "cpu":
            budget = LOGITS_BYTES // (4 * self.model.config.get_text_config().vocab_size)
        return max(1, budget // int(min(length, self.max_length)))

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval records about the model, without asking the hub for its commit."""
        return {"model_num_parameters": self.model.num_parameters(), "model_dtype": str(self.model.dtype)}


def yaml_task(yaml: str, **overrides: Any) -> Any:
    """The task that a file inside lm-eval's `tasks` folder defines, with some fields replaced."""
    folder = Path(lm_eval.tasks.__file__).parent
    with _quiet():
        return ConfigurableTask(config={**load_yaml(folder / yaml), **overrides})


def hub_tasks(names: Sequence[str]) -> list[Any]:
    """Tasks and groups by name, their data from the hub."""
    with _quiet():
        loaded = TaskManager().load(list(names))
    children = {child for group in loaded.get("group_map", {}).values() for child in group}
    return [item for kind in ("groups", "tasks") for name, item in loaded.get(kind, {}).items() if name not in children]


def run_harness(model: HarnessModel, tasks: Sequence[Any], **settings: Any) -> dict[str, Any]:
    """lm-eval's result dict for task objects, with fixed seeds and without per-document logs."""

    def count(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        model.tokens += ids.numel() if ids is not None else 0

    hook = model.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with _as_first():
            return results_of(model, tasks, **settings)
    finally:
        hook.remove()


def results_of(model: Any, tasks: Sequence[Any], **settings: Any) -> dict[str, Any]:
    """lm-eval's result dict of any model of its own for task objects."""
    with _quiet():
        result: dict[str, Any] = lm_eval.evaluator.simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=TaskManager(include_defaults=False),  # objects need no index, which takes 10 s
            bootstrap_iters=BOOTSTRAP_ITERATIONS,
            log_samples=False,
            **settings,
        )
        return result


@contextmanager
def _as_first() -> Iterator[None]:
    """In every process of several lm-eval works out the results, which it does for the first one of a host alone."""
    given = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "0"
    try:
        yield
    finally:
        os.environ.pop("LOCAL_RANK") if given is None else os.environ.update(LOCAL_RANK=given)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines, prints or bars of lm-eval's; nor its reports on the machine and on the folder it runs in."""
    replaced: tuple[tuple[Any, str, Any], ...] = (
        (lm_eval.api.task, "tqdm", lambda items, **_: items),
        (lm_eval.evaluator, "add_env_info", lambda _result: None),
        (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
        (lm_eval.api.metrics, "bootstrap_stderr", _bootstrap_error),
    )
    replaced = tuple(one for one in replaced if hasattr(*one[:2]))  # what is gone only prints or takes time
    originals = [getattr(module, name) for module, name, _ in replaced]
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    for module, name, ours in replaced:
        setattr(module, name, ours)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        for (module, name, _), original in zip(replaced, originals, strict=True):
            setattr(module, name, original)


def _bootstrap_error(metric: Callable[[Sequence[Any]], float], values: Sequence[Any], iters: int) -> float:
    # lm-eval's own forks a process per core, each with the model in it, and draws a bar.
    draw = random.Random(0)
    return statistics.stdev(metric(draw.choices(values, k=len(values))) for _ in range(iters))
