"""Text as token ids that a model has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spikeconv.errors import SpikeconvError, reason_of

if TYPE_CHECKING:
    import torch

__all__ = ["chat_ids", "check_tokens", "rows_of", "text_ids"]


def text_ids(model: Any, tokenizer: Any, text: str) -> "torch.Tensor":
    """Token ids [tokens] of a text, as the tokenizer begins one.

    Raises:
        SpikeconvError: the tokenizer fails, or gives tokens that the model has not.
    """
    try:
        ids = tokenizer(text, verbose=False)["input_ids"]  # verbose: warns of a long text
    except Exception as error:  # `tokenizers` raises Exception itself
        raise SpikeconvError(f"The tokenizer cannot read the text: {reason_of(error)}") from error
    return _checked(model, ids)


def rows_of(model: Any, tokenizer: Any, *columns: Sequence[str], longest: int | None) -> "dict[str, torch.Tensor]":
    """What an encoder is called with for some texts, or some pairs of texts: ids, masks and kinds [texts, tokens].

    Args:
        model: whose tokens they must be.
        tokenizer: its.
        columns: the texts; of pairs, the first and the second of each.
        longest: tokens at which a text is cut off.

    Raises:
        SpikeconvError: the tokenizer fails, or gives tokens that the model has not.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    try:
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=longest)
    except Exception as error:  # `tokenizers` raises Exception itself
        raise SpikeconvError(f"The tokenizer cannot read the text: {reason_of(error)}") from error
    for row in encoded["input_ids"]:
        check_tokens(model, row)
    # Padded by 0, which the mask hides: not every tokenizer has a token for it.
    encoded.setdefault("attention_mask", [[1] * len(row) for row in encoded["input_ids"]])
    return {
        name: pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        for name, rows in encoded.items()
        if name in ("input_ids", "attention_mask", "token_type_ids")
    }


def chat_ids(model: Any, tokenizer: Any, messages: Sequence[dict[str, str]], instead: str) -> "torch.Tensor":
    """Token ids [tokens] of a conversation in the chat template, which brings its own first token.

    Args:
        model: whose tokens they must be.
        tokenizer: its, with the template.
        messages: `role` and `content` of each, as the template takes them; the answer's beginning comes behind them.
        instead: what to do where there is no template that works, for the message.

    Raises:
        SpikeconvError: there is no template, it fails, or it gives tokens that the model has not.
    """
    if not tokenizer.chat_template:
        raise SpikeconvError(f"The tokenizer has no chat template; {instead}.")
    try:
        ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=True)
    except Exception as error:  # a template is a program
        raise SpikeconvError(f"The chat template fails: {reason_of(error)}; {instead}.") from error
    return _checked(model, ids["input_ids"])


def check_tokens(model: Any, ids: Sequence[int]) -> None:
    """Check that a model has tokens of these ids.

    Raises:
        SpikeconvError: it has not: the tokenizer is another model's.
    """
    size = model.config.get_text_config().vocab_size
    if ids and not 0 <= min(ids) <= max(ids) < size:
        odd = next(i for i in ids if not 0 <= i < size)
        raise SpikeconvError(
            f"The tokenizer gives token {odd}, but the model has tokens 0 to {size - 1}: they do not belong together."
        )


def _checked(model: Any, ids: list[int]) -> "torch.Tensor":
    import torch

    check_tokens(model, ids)
    return torch.tensor(ids, dtype=torch.long)
