"""Words that stand alone on a command line because an option's list was typed with spaces: `--tasks piqa arc`."""

from collections.abc import Sequence
from typing import Any

__all__ = ["list_hint"]


def list_hint(words: Sequence[str], stray: str, params: Sequence[Any]) -> str:
    """How to write the list that a stray word may belong to, as a sentence; empty where there is none.

    Args:
        words: what was typed after the command.
        stray: one of them, which is neither an option nor its value.
        params: of the command, as click has them; the help of an option that takes a list "with commas" says so.
    """
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        param = next((each for each in params if option in each.opts and each.param_type_name == "option"), None)
        if param is None or param.is_flag:
            continue
        rest = [value, *words[index + 1 :]] if equals else list(words[index + 1 :])
        end = next((place for place, each in enumerate(rest) if each.startswith("-")), len(rest))
        run = rest[:end]
        if stray not in run[1:] or "/" in stray:
            continue
        if param.multiple:
            return f" If it belongs to {option}, repeat that: {' '.join(f'{option} {each}' for each in run)}."
        if "comma" in (param.help or ""):
            return f" If it belongs to {option}, join the list by commas: {option} {','.join(run)}."
    return ""
