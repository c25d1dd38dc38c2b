"""Tokenizers of RWKV models that transformers has no class for: bytes, and the vocabulary of the World models."""

from ast import literal_eval
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from spikeconv.errors import SpikeconvError

__all__ = ["RwkvWorldTokenizer", "byte_tokenizer", "register_tokenizers"]

END = "<|endoftext|>"
PUBLISHED = ("RWKV7Tokenizer", "RWKVWorldTokenizer", "Rwkv6Tokenizer", "RwkvTokenizer")
"""What published checkpoints call their own copies of the World tokenizer."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with the byte as its id; NUL ends a text and pads."""
    vocabulary = {character: byte for byte, character in bytes_to_unicode().items() if byte}
    tokenizer = Tokenizer(models.BPE(vocab={"\0": 0, **vocabulary}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="\0", pad_token="\0", clean_up_tokenization_spaces=False
    )


def register_tokenizers() -> None:
    """Let `AutoTokenizer` load every directory that declares a World tokenizer with the class here.

    A class registered by name goes before the Python code that such a directory brings, which is then not asked for.
    """
    # Whose import registers: by then this module has to be whole.
    from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

    for name in (RwkvWorldTokenizer.__name__, *PUBLISHED):
        REGISTERED_TOKENIZER_CLASSES[name] = RwkvWorldTokenizer


class RwkvWorldTokenizer(PreTrainedTokenizer):
    """The longest token of the vocabulary that the UTF-8 bytes go on with, again and again; id 0 ends a text and pads.

    A token is written as its text; bytes that are no UTF-8 by themselves are lone surrogates in it (PEP 383).

    Args:
        vocab_file: the authors' `rwkv_vocab_v20230424.txt`, a token a line: id, Python literal, number of bytes.
        vocab_txt: used if there is no `vocab_file`; its lines are literals only, and count from id 0.
        eos_token, pad_token, bos_token, unk_token: one that is in the vocabulary stays an ordinary token, so that texts
            are read as the authors' tokenizer reads them; the first other one becomes the name of id 0 for them all.
        added_tokens_decoder: further special tokens by id, as `save_pretrained` notes them.

    Raises:
        SpikeconvError: the vocabulary is missing or malformed, or cannot express every byte.
    """

    vocab_files_names = {"vocab_file": "rwkv_vocab_v20230424.txt", "vocab_txt": "vocab.txt"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (as transformers declares them)

    def __init__(
        self,
        vocab_file: str | None = None,
        vocab_txt: str | None = None,
        eos_token: str | AddedToken | None = END,
        pad_token: str | AddedToken | None = END,
        bos_token: str | AddedToken | None = None,
        unk_token: str | AddedToken | None = None,
        added_tokens_decoder: dict[int, AddedToken] | None = None,
        **kwargs: Any,
    ) -> None:
        path = vocab_file or vocab_txt
        if path is None:
            raise SpikeconvError(f"The tokenizer's vocabulary {self.vocab_files_names['vocab_file']} is missing.")
        tokens = read_vocabulary(Path(path))
        self._ids = {text_of(token): number for number, token in tokens.items()}
        self._texts = {number: text for text, number in self._ids.items()}
        self._trie = _Trie(tokens.values())
        names = [str(token) for token in (eos_token, pad_token, bos_token, unk_token) if token is not None]
        self._end = next((name for name in names if name not in self._ids), END)
        self._texts[0] = self._end
        added = {i: token for i, token in (added_tokens_decoder or {}).items() if i and str(token) not in self._ids}
        super().__init__(
            eos_token=self._end,
            pad_token=self._end,
            bos_token=bos_token and self._end,
            unk_token=unk_token and self._end,
            added_tokens_decoder=added,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, that of id 0 included."""
        return len(self._texts)

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return {self._end: 0, **self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self._trie.split(text.encode("utf-8", errors="replace"))

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self._texts.get(index, "")  # models have a few rows more than there are tokens

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD."""
        return "".join(tokens).encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write the vocabulary in the authors' format."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        lines = (_line(number, text) for text, number in self._ids.items())
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        return (str(path),)


class _Trie:
    """Tokens by their bytes."""

    _END = -1
    """Where a node holds the token that ends there; the other keys are bytes."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        self._root: dict[int, Any] = {}
        for token in tokens:
            node = self._root
            for byte in token:
                node = node.setdefault(byte, {})
            node[self._END] = text_of(token)

    def split(self, data: bytes) -> list[str]:
        """The tokens of data, each the longest that it can be."""
        found, start = [], 0
        while start < len(data):
            node, position, token, end = self._root, start, "", start
            while position < len(data) and (node := node.get(data[position], {})):
                position += 1
                if self._END in node:
                    token, end = node[self._END], position
            found.append(token)
            start = end
        return found


def text_of(token: bytes) -> str:
    """The text of a token's bytes; it gives them back whether they are UTF-8 or not."""
    return token.decode("utf-8", errors="surrogateescape")


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """The tokens of a vocabulary file by id; id 0 is none of them.

    Raises:
        SpikeconvError: the file is missing or malformed, or lacks one of the 256 bytes.
    """
    tokens = {}
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for index, line in enumerate(file):
                number, token = _parse(line, index)
                if number:
                    tokens[number] = token
    except (OSError, ValueError, SyntaxError) as error:
        raise SpikeconvError(f"{path} is not a readable RWKV vocabulary: {error}") from None
    missing = {bytes((byte,)) for byte in range(256)} - set(tokens.values())
    if missing:
        raise SpikeconvError(f"{path} is not a complete RWKV vocabulary: it lacks {len(missing)} of the 256 bytes.")
    return tokens


def _parse(line: str, index: int) -> tuple[int, bytes]:
    number, _, rest = line.strip().partition(" ")
    literal, _, length = rest.rpartition(" ")
    if not number.isdigit():
        number, literal, length = str(index), line.strip() if index else "''", ""
    token = literal_eval(literal)
    data = token.encode() if isinstance(token, str) else token
    if not isinstance(data, bytes) or (length and len(data) != int(length)):
        raise ValueError(f"line {index + 1} is {line.strip()!r}")
    return int(number), data


def _line(number: int, text: str) -> str:
    data = text.encode("utf-8", errors="surrogateescape")
    literal = repr(text) if text.encode("utf-8", errors="replace") == data else repr(data)
    return f"{number} {literal} {len(data)}\n"
