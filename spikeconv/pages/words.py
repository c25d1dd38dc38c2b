"""Numbers and names as people read them."""

import math

__all__ = ["count", "file_name", "joules", "number", "share", "token_label"]

LONGEST = 11
"""Characters of a token's label."""


def count(value: float) -> str:
    """A large number in three digits with its unit, as in `108 G`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{number(value / size)} {unit}"
    return number(value)


def joules(picojoules: float) -> str:
    """An energy in three digits with its unit."""
    for unit, size in (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3)):
        if abs(picojoules) >= size:
            return f"{number(picojoules / size)} {unit}"
    return f"{number(picojoules)} pJ"


def number(value: float | None) -> str:
    """Three digits, and no exponent where none is needed; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits <= 6 else f"{value:.2g}"


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def token_label(token: str) -> str:
    """A token for the axis of a picture: what cannot be seen has a sign, and what is long is cut."""
    text = token.strip(" ") or "␣" if token else "∅"
    text = "".join("⏎" if each == "\n" else each if each.isprintable() else "·" for each in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def file_name(text: str) -> str:
    """A name of letters, digits and hyphens for files and anchors."""
    words = "".join(each if each.isascii() and each.isalnum() else "-" for each in text.lower())
    return "-".join(part for part in words.split("-") if part)[:60] or "model"
