"""Text generation with a converted model."""

import torch
from transformers import TextStreamer

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import LoadedModel

__all__ = ["generate_text"]


def generate_text(
    loaded: LoadedModel,
    prompt: str,
    *,
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    stream: bool = False,
) -> tuple[str, int]:
    """Continue a prompt.

    Args:
        loaded: the model.
        prompt: text to continue; must not be empty.
        max_new_tokens: tokens to add at most.
        temperature: 0 takes the likeliest token.
        seed: seed of the sampling.
        chat: wrap the prompt in the tokenizer's chat template.
        stream: print the text to stdout as it comes, the prompt first.

    Returns:
        The added text and how many tokens it has.
    """
    tokenizer = loaded.tokenizer
    if chat:
        if not tokenizer.chat_template:
            raise SpikeconvError(f"{loaded.name} has no chat template; leave --chat out.")
        message = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt").to(loaded.model.device)
    if not inputs.input_ids.shape[1]:
        raise SpikeconvError("The prompt is empty; give one with -p.")
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.inference_mode():
        tokens = loaded.model.generate(
            **inputs,
            **sampling,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            streamer=TextStreamer(tokenizer, skip_special_tokens=True) if stream else None,
        )[0, inputs.input_ids.shape[1] :]
    return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)
