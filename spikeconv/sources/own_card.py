"""What the model card of a source says that holds for what is made of it: licence and languages."""

import re
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.untrusted import read_bounded
from spikeconv.yaml_text import parse_yaml

__all__ = ["card_values", "own_card", "plain_card"]

MOST_CARD = 1 << 22
FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?$", re.DOTALL | re.MULTILINE)
WORD = re.compile(r"[\w.+:/ -]{1,200}")


def own_card(folder: Path) -> dict[str, Any]:
    """`license`, `license_name`, `license_link` and `language` from the head of `README.md`, as far as it has them."""
    try:
        return card_values(read_bounded(folder / "README.md", MOST_CARD).decode("utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def card_values(text: str) -> dict[str, Any]:
    """The same of a card's text."""
    head = FRONT.match(text)
    try:
        values = parse_yaml(head[1], "README.md") if head else {}
    except SpikeconvError:
        return {}
    return plain_card(values if isinstance(values, dict) else {})


def plain_card(values: dict[str, Any]) -> dict[str, Any]:
    """What of some values a card may repeat: words, and lists of them."""
    names = ("license", "license_name", "license_link", "language")
    return {name: values[name] for name in names if name in values and _is_plain(values[name])}


def _is_plain(value: Any) -> bool:
    words = value if isinstance(value, list) else [value]
    return bool(words) and all(isinstance(word, str) and WORD.fullmatch(word) for word in words)
