"""Text as token ids that a model has."""

from typing import TYPE_CHECKING, Any

from spikeconv.errors import SpikeconvError, reason_of

if TYPE_CHECKING:
    import torch

__all__ = ["chat_ids", "text_ids"]


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


def chat_ids(model: Any, tokenizer: Any, prompt: str) -> "torch.Tensor":
    """Token ids [tokens] of a user's message in the chat template, which brings its own first token.

    Raises:
        SpikeconvError: there is no template, it fails, or it gives tokens that the model has not.
    """
    if not tokenizer.chat_template:
        raise SpikeconvError("The tokenizer has no chat template; leave --chat out.")
    message = [{"role": "user", "content": prompt}]
    try:
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)
    except Exception as error:  # a template is a program
        raise SpikeconvError(f"The chat template fails: {reason_of(error)}; leave --chat out.") from error
    return _checked(model, ids["input_ids"])


def _checked(model: Any, ids: list[int]) -> "torch.Tensor":
    import torch

    size = model.config.get_text_config().vocab_size
    if ids and not 0 <= min(ids) <= max(ids) < size:
        odd = next(i for i in ids if not 0 <= i < size)
        raise SpikeconvError(
            f"The tokenizer gives token {odd}, but the model has tokens 0 to {size - 1}: they do not belong together."
        )
    return torch.tensor(ids, dtype=torch.long)
