"""The World tokenizer reads and writes text as the authors' package does, and is what `AutoTokenizer` finds."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, RwkvConfig

from spikeconv.errors import SpikeconvError
from spikeconv.models.rwkv6 import Rwkv6Config
from spikeconv.models.tokenizers import RwkvWorldTokenizer, byte_tokenizer, register_tokenizers

NAME = "rwkv_vocab_v20230424.txt"
TEXTS = [
    "",
    "The longest match, then the next one.",
    "  runs   of      spaces" + " " * 300 + "\n\n\n\n\t\t\r\n end ",
    "😀 🏳️‍🌈 e\u0301 naïve 漢字かな עברית ﷽ \ud7ff\ue000\U0010ffff",
    "\x00\x01\x7f\x85\u2028\ufeff\ufffd",
    "<|im_start|> <s> </s> <|end",
    'print("a\\n")  # \\x00 \'',
]


def vocabulary() -> Path:
    """The whole vocabulary, of the authors' package."""
    spec = importlib.util.find_spec("rwkv")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / NAME


def authors_tokenizer(path: Path) -> Any:
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    return TRIE_TOKENIZER(str(path))


@pytest.fixture(scope="module")
def world() -> RwkvWorldTokenizer:
    return RwkvWorldTokenizer(str(vocabulary()))


@pytest.fixture(scope="module")
def authors() -> Any:
    return authors_tokenizer(vocabulary())


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A directory with the first 320 tokens, which load faster."""
    register_tokenizers()
    lines = vocabulary().read_bytes().split(b"\r\n")[:320]
    (tmp_path / NAME).write_bytes(b"\n".join(lines) + b"\n")
    return tmp_path


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_authors_and_give_the_text_back(text: str, world: RwkvWorldTokenizer, authors: Any) -> None:
    ids = world(text)["input_ids"]
    assert ids == authors.encode(text)
    assert world.decode(ids) == world.decode(ids, skip_special_tokens=True) == text
    assert world.convert_tokens_to_ids(world.tokenize(text)) == ids


def test_every_token(world: RwkvWorldTokenizer, authors: Any, tmp_path: Path) -> None:
    assert world.vocab_size == len(world) == len(world.get_vocab()) == 65530
    for number, token in authors.idx2token.items():
        text = world.convert_ids_to_tokens(number)
        assert text.encode("utf-8", errors="surrogateescape") == token
        assert world.convert_tokens_to_ids(text) == number
    world.save_vocabulary(str(tmp_path))
    assert (tmp_path / NAME).read_bytes() == vocabulary().read_bytes().replace(b"\r\n", b"\n")


def test_bytes_that_are_no_text(world: RwkvWorldTokenizer) -> None:
    first, *rest = world("🧠")["input_ids"]
    assert rest and world.decode([first]) == "�" and world.decode([first, *rest]) == "🧠"
    assert world.decode([65535, 98]) == "a"  # models have a few rows more than there are tokens
    assert world.decode(world("\ud800")["input_ids"]) == "?"


def test_end_of_text(world: RwkvWorldTokenizer) -> None:
    assert world.eos_token_id == world.pad_token_id == 0 and world.bos_token is None
    ids = world("a<|endoftext|>b")["input_ids"]
    assert ids == [98, 0, 99]
    assert world.decode(ids) == "a<|endoftext|>b" and world.decode(ids, skip_special_tokens=True) == "ab"
    batch = world(["a", "abc d"], padding=True)
    assert batch["input_ids"][0][1:] == [0] * (len(batch["input_ids"][1]) - 1)
    assert batch["attention_mask"][0][:2] == [1, 0] and set(batch) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("config", [RwkvConfig, Rwkv6Config])
def test_save_and_load(config: Any, start: Path) -> None:
    saved = start / "saved"
    tokenizer = RwkvWorldTokenizer(str(start / NAME))
    config(num_hidden_layers=1, hidden_size=64).save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    assert (saved / NAME).read_bytes() == (start / NAME).read_bytes()
    loaded = AutoTokenizer.from_pretrained(saved)
    assert type(loaded) is RwkvWorldTokenizer and loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded("a\n\n<|endoftext|>")["input_ids"] == [98, 261, 0]


def test_bytes_load_beside_a_model_of_another_tokenizer(tmp_path: Path) -> None:
    """transformers takes GPT-NeoX's class for RWKV-4 unless the directory says otherwise."""
    for config in (RwkvConfig, Rwkv6Config):
        config(num_hidden_layers=1, hidden_size=64).save_pretrained(tmp_path)
        byte_tokenizer().save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        assert loaded("é <|endoftext|>").input_ids == list("é <|endoftext|>".encode()) and loaded.eos_token_id == 0


PUBLISHED: dict[str, tuple[str, dict[str, Any], str]] = {
    "RWKV/rwkv-6-world": (
        "rwkv6",
        {
            "tokenizer_class": "Rwkv6Tokenizer",
            "auto_map": {"AutoTokenizer": ["hf_rwkv_tokenizer.Rwkv6Tokenizer", None]},
            "add_bos_token": False,
            "added_tokens_decoder": {"0": {"content": "<s>", "special": True}},
            "bos_token": "<s>",
            "eos_token": "<s>",
            "unk_token": "<s>",
        },
        "<s>",
    ),
    "fla-hub/rwkv7": (
        "rwkv7",
        {
            "tokenizer_class": "RwkvTokenizer",
            "auto_map": {"AutoTokenizer": ["hf_rwkv_tokenizer.RwkvTokenizer", None]},
            "added_tokens_decoder": {
                "0": {"content": "<|rwkv_tokenizer_end_of_text|>", "special": True},
                "65530": {"content": "\n\n", "special": True},
            },
            "bos_token": "<|rwkv_tokenizer_end_of_text|>",
            "eos_token": "\n\n",
            "pad_token": "<|rwkv_tokenizer_end_of_text|>",
            "unk_token": "<|rwkv_tokenizer_end_of_text|>",
        },
        "<|rwkv_tokenizer_end_of_text|>",
    ),
    "rwkv7-hf": (
        "rwkv7",
        {
            "tokenizer_class": "RWKV7Tokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_rwkv7.RWKV7Tokenizer", None]},
            "model_vocab_size": 65536,
            "pad_token": "<|padding|>",
            "eos_token": "<|endoftext|>",
            "errors": "replace",
        },
        "<|endoftext|>",
    ),
    "RWKV/rwkv-4-world": (
        "rwkv",
        {
            "tokenizer_class": "RWKVWorldTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_rwkv_world.RWKVWorldTokenizer", None]},
        },
        "<|endoftext|>",
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_directories_need_no_code_of_theirs(model: str, start: Path) -> None:
    model_type, declared, end = PUBLISHED[model]
    (start / "config.json").write_text(json.dumps({"model_type": model_type}))
    (start / "tokenizer_config.json").write_text(json.dumps(declared))
    loaded = AutoTokenizer.from_pretrained(start)
    assert type(loaded) is RwkvWorldTokenizer
    assert loaded.eos_token == loaded.pad_token == end and loaded.eos_token_id == loaded.pad_token_id == 0
    text = "one\n\n\ntwo.\n\n three"
    assert loaded(text)["input_ids"] == authors_tokenizer(start / NAME).encode(text)
    assert loaded(f"a{end}\n\n")["input_ids"] == [98, 0, 261]
    assert loaded.decode([98, 0, 261], skip_special_tokens=True) == "a\n\n"


def test_vocabulary_of_literals_only(start: Path) -> None:
    """RWKV-5's and RWKV-6's first classes wrote `vocab.txt`, in which the line tells the id."""
    ids = RwkvWorldTokenizer(str(start / NAME)).get_vocab()
    tokens = [token.encode("utf-8", errors="surrogateescape") for token in sorted(ids, key=ids.__getitem__)]
    (start / NAME).unlink()
    (start / "vocab.txt").write_text("".join(f"{token!r}\n" for token in tokens))
    (start / "tokenizer_config.json").write_text('{"tokenizer_class": "Rwkv6Tokenizer"}')
    RwkvConfig().save_pretrained(start)
    assert AutoTokenizer.from_pretrained(start).get_vocab() == ids


BYTES = "".join(f"{i + 1} {bytes([i])!r} 1\n" for i in range(256))
DAMAGES = {
    "": "lacks 256 of the 256 bytes",
    BYTES[: BYTES.index("12 ")]: "lacks 245 of the 256 bytes",
    BYTES + "257 'ab' 3\n": "line 257 is",
    BYTES + "257 ab 2\n": "not a readable RWKV vocabulary",
    BYTES + "257 __import__('os') 2\n": "not a readable RWKV vocabulary",
    BYTES + "257 [1, 2] 2\n": "line 257 is",
    BYTES + "{": "not a readable RWKV vocabulary",
}


@pytest.mark.parametrize("content", DAMAGES)
def test_bad_vocabulary(content: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(SpikeconvError, match=NAME) as error:
        RwkvWorldTokenizer(str(tmp_path / NAME))
    assert DAMAGES[content] in str(error.value) and "\n" not in str(error.value)


def test_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(SpikeconvError, match=f"{NAME} is missing"):
        RwkvWorldTokenizer()
    with pytest.raises(SpikeconvError, match=rf"{NAME} is not a readable RWKV vocabulary"):
        RwkvWorldTokenizer(str(tmp_path / NAME))
