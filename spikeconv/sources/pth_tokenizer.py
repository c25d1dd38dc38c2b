"""The tokenizer of a `.pth` file, which holds none: one beside it, or what all models of that vocabulary size use."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from spikeconv.errors import SpikeconvError
from spikeconv.models.tokenizers import RwkvWorldTokenizer, byte_tokenizer
from spikeconv.wheels import RWKV

__all__ = ["find_tokenizer"]

WORLD, NEOX, BYTES = 65536, 50277, 256
"""Rows of the embeddings of the models with the World vocabulary, that of GPT-NeoX, and bytes."""
VOCABULARY = "rwkv_vocab_v20230424.txt"


def find_tokenizer(path: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer of the `.pth` file at `path`, whose model has embeddings for `vocab_size` tokens.

    Raises:
        SpikeconvError: there is none, it cannot be read or fetched, or it has more tokens than the model.
    """
    beside = _beside(path, vocab_size)
    if beside is not None:
        tokenizer = _read(beside)
        if len(tokenizer) > vocab_size:
            raise SpikeconvError(
                f"{beside} has {len(tokenizer)} tokens, but the model in {path} has {vocab_size}; put its own there."
            )
        return tokenizer
    if vocab_size == WORLD:
        return RwkvWorldTokenizer(str(RWKV.folder() / "rwkv" / VOCABULARY))
    if vocab_size == BYTES:
        return byte_tokenizer()
    wanted = "20B_tokenizer.json" if vocab_size == NEOX else "its tokenizer.json or rwkv_vocab*.txt"
    raise SpikeconvError(f"The tokenizer of {vocab_size} tokens is missing: put {wanted} beside {path}.")


def _beside(path: Path, vocab_size: int) -> Path | None:
    """A tokenizer in the folder of the file; models of several vocabularies may lie there."""
    files = [path.with_name("tokenizer.json"), path.with_name("20B_tokenizer.json")]
    worlds = sorted(path.parent.glob("rwkv_vocab*.txt"))
    candidates = [*worlds, *files] if vocab_size == WORLD else [*files, *worlds]
    return next((file for file in candidates if file.is_file()), None)


def _read(path: Path) -> PreTrainedTokenizerBase:
    if path.suffix == ".txt":
        return RwkvWorldTokenizer(str(path))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise SpikeconvError(f"{path} is not a readable tokenizer: {error}") from None
    # RWKV models end a text by id 0, if that is no word.
    end = tokenizer.get_added_tokens_decoder().get(0)
    special = {} if end is None else {"eos_token": end.content, "pad_token": end.content}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
