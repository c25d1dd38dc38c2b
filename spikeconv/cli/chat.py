"""`spikeconv chat`."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeconv.cli.console import err, out, print_json
from spikeconv.cli.fallbacks import load_telling
from spikeconv.cli.measured import measured, running
from spikeconv.cli.options import (
    AsJson,
    CacheDtype,
    Checkpoint,
    Device,
    Dtype,
    Execution,
    HeadBits,
    MemoryLimits,
    ModelParallel,
    OffloadFolder,
    Quiet,
    Seed,
    Temperature,
    TrustRemoteCode,
)
from spikeconv.cli.placing import place
from spikeconv.cli.reading import chosen_checkpoint
from spikeconv.cli.streams import is_terminal
from spikeconv.errors import SpikeconvError
from spikeconv.placing import Placing

if TYPE_CHECKING:
    from spikeconv.evaluate.chat import Answer, Conversation

__all__ = ["chat"]

COMMANDS = {
    "/clear": "begin a new conversation",
    "/help": "this list",
    "/bye": "the end; so is Ctrl-D",
}


def chat(
    checkpoint: Checkpoint = None,
    system: Annotated[
        str | None, typer.Option(help="A message in front of the conversation.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens of an answer at most.")
    ] = 512,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    execution: Execution = None,
    head_bits: HeadBits = None,
    cache_dtype: CacheDtype = None,
    model_parallel: ModelParallel = False,
    memory_limits: MemoryLimits = None,
    offload_folder: OffloadFolder = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Talk to a converted model: each line of standard input is a message.

    It keeps what was said in a cache, so that only what is new is read; Ctrl-C stops an answer.

    Example: [cyan]spikeconv chat --system "Answer briefly."[/]
    """
    if system is not None and not system.strip():
        raise SpikeconvError("The message of --system is empty; leave it out.")
    path = chosen_checkpoint(checkpoint, quiet)

    from spikeconv.evaluate.chat import Conversation
    from spikeconv.evaluate.generate import Sampling

    placing = place(model_parallel, memory_limits, offload_folder)
    runs = running(device, dtype, execution, head_bits, cache_dtype)
    loaded, lost = load_telling(path, quiet, **runs, placing=placing, trust_remote_code=trust_remote_code)
    conversation = Conversation(loaded, Sampling(temperature, max_new_tokens), system, seed)
    if not quiet and is_terminal("stdin"):
        err.print("[note]{name}; /help lists commands[/]", name=loaded.name)
    answers = [_answer(conversation, loaded.tokenizer, text, as_json, quiet) for text in _messages(conversation)]
    if as_json:
        what: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens}
        print_json(
            {
                "messages": conversation.messages,
                "answers": [answer._asdict() for answer in answers if answer is not None],
                "fallbacks": lost,
                **measured(path, **runs, system=system, spread=Placing.told(placing), **what),
            }
        )


def _answer(conversation: "Conversation", tokenizer: Any, text: str, as_json: bool, quiet: bool) -> "Answer | None":
    """Answer a message, printing as it comes; None where Ctrl-C stopped it, or it cannot be answered at a terminal."""
    from transformers import TextStreamer

    streamer = None if as_json else TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        answer = conversation.say(text, streamer)
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt or not is_terminal("stdin"):  # another signal, or nobody is there
            raise
        err.print("")
        err.print("[note]stopped; neither message nor answer is kept[/]")
        return None
    except SpikeconvError as error:
        if not is_terminal("stdin"):
            raise
        err.print("[bad]error:[/] {error}", error=error)
        return None
    if not quiet:
        err.print(
            "[note]{tokens} tokens, {rate:.1f} tokens/s; read {read}{forgotten}[/]",
            tokens=answer.tokens,
            rate=answer.tokens / answer.seconds,
            read=answer.read,
            forgotten=f"; the {answer.forgotten} oldest messages no longer fit" if answer.forgotten else "",
        )
    return answer


def _messages(conversation: "Conversation") -> Iterator[str]:
    """What is typed, line by line, until it ends; lines that are commands are done."""
    while (line := _line()) is not None:
        text = line.strip()
        if text == "/bye":
            return
        if text == "/clear":
            conversation.clear()
        elif text == "/help" or (text.startswith("/") and text.split()[0] not in COMMANDS and is_terminal("stdin")):
            for name, does in COMMANDS.items():
                err.print("  {name:8} {does}", name=name, does=does)
        elif text:
            yield text


def _line() -> str | None:
    """The next line of standard input, asked for at a terminal; None at its end.

    Raises:
        SpikeconvError: it is no text, and nobody is there to write it again.
    """
    try:
        line = _typed() if is_terminal("stdin") else sys.stdin.readline() or None
        (line or "").encode()  # bytes that are no text may have come through as what no tokenizer reads
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        if is_terminal("stdin"):
            err.print("[bad]error:[/] that is no text in UTF-8: {reason}", reason=error.reason)
            return ""
        raise SpikeconvError(f"Standard input is no text in UTF-8: {error.reason}.") from error
    return line


def _typed() -> str | None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (arrows and history in `input`)
    try:
        return input("› ")
    except EOFError:
        out.print("")
        return None
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:  # another signal
            raise
        err.print("")
        err.print("[note]/bye or Ctrl-D ends the conversation[/]")
        return ""
