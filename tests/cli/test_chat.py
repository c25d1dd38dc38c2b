"""`spikeconv chat`: what the model is given, what it remembers, and how a conversation ends."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.chat import Conversation
from spikeconv.evaluate.generate import Sampling
from spikeconv.evaluate.models import load_checkpoint

Run = Callable[..., Any]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture
def talkative(converted: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint of a family whose tokenizer (a token for each byte) has a chat template."""

    def made(family: str) -> Path:
        folder = tmp_path / family
        shutil.copytree(converted(family, bits="8-8"), folder, dirs_exist_ok=True)
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        return folder

    return made


def test_only_what_is_new_is_read(talkative: Callable[[str], Path]) -> None:
    """The cache is cut off where the template goes on otherwise; a recurrent model's state cannot be, nor can a window
    that has slid, where the engine does not run."""
    cases: tuple[tuple[str, dict[str, Any], bool], ...] = (
        ("llama", {}, True), ("llama", {"cache_dtype": "bfloat16"}, True), ("llama", {"execution": "dense"}, True),
        ("mistral", {}, True), ("mistral", {"execution": "dense"}, False), ("rwkv6", {}, False),
    )  # fmt: skip
    for family, options, remembers in cases:
        loaded = load_checkpoint(talkative(family), **options)
        loaded.model.config.max_position_embeddings = 512
        talk, texts = Conversation(loaded, Sampling(max_new_tokens=4), system="x"), ("ab", "c", "ab")
        messages = [{"role": "system", "content": "x"}]
        known = torch.zeros(0, dtype=torch.int64)
        for text in texts:
            messages.append({"role": "user", "content": text})
            ids = talk._ids(messages)
            shared = next(
                (i for i in range(min(len(known), len(ids) - 1)) if known[i] != ids[i]), min(len(known), len(ids) - 1)
            )
            fresh = Conversation(loaded, Sampling(max_new_tokens=4))
            fresh.messages = messages[:-1]
            expected, answer = fresh.say(text), talk.say(text)
            assert (answer.read, expected.read) == (len(ids) - (shared if remembers else 0), len(ids))
            assert answer.text == expected.text and answer.forgotten == 0
            messages.append({"role": "assistant", "content": answer.text})
            assert talk.messages == messages == fresh.messages
            known = talk._read
        assert (len(known) > 0) == (family != "rwkv6")
        talk.clear()
        assert talk.messages == messages[:1] and talk.say("ab").text == messages[2]["content"]


def test_what_no_longer_fits_is_forgotten(talkative: Callable[[str], Path]) -> None:
    loaded = load_checkpoint(talkative("llama"))
    talk = Conversation(loaded, Sampling(max_new_tokens=2), system="s")
    longest = loaded.model.config.max_position_embeddings
    fits = longest - len(talk._ids([*talk.messages, {"role": "user", "content": ""}])) - 1
    assert talk.say("a" * (fits // 2)).forgotten == 0
    answer = talk.say("b" * fits)
    assert answer.forgotten == 2 and answer.tokens == 1
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant"]
    before = list(talk.messages)
    with pytest.raises(SpikeconvError, match="no room to answer"):
        talk.say("c" * (fits + 1))
    assert talk.messages == before


def test_an_interrupted_answer_is_none(talkative: Callable[[str], Path]) -> None:
    class Stops:
        put_tokens = 0

        def put(self, tokens: torch.Tensor) -> None:
            self.put_tokens += 1
            if self.put_tokens == 3:
                raise KeyboardInterrupt

        def end(self) -> None: ...

    loaded = load_checkpoint(talkative("llama"))
    talk, other = (Conversation(loaded, Sampling(max_new_tokens=4)) for _ in range(2))
    first = talk.say("a")
    with pytest.raises(KeyboardInterrupt):
        talk.say("b", Stops())
    assert len(talk.messages) == 2
    again, expected = talk.say("c"), (other.say("a"), other.say("c"))
    assert (first.text, again.text) == tuple(answer.text for answer in expected)


def test_the_command(
    spikeconv: Run, talkative: Callable[[str], Path], converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = talkative("llama")

    def said(lines: bytes, *arguments: object, of: Path = folder) -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8", "surrogateescape"))
        return spikeconv("chat", of, "-n", 3, *arguments)

    found = said(b"a\n\nb\n", "--json", "--system", "s").json
    assert [m["content"] for m in found["messages"]][:2] == ["s", "a"] and len(found["messages"]) == 5
    assert [answer["text"] for answer in found["answers"]] == [m["content"] for m in found["messages"][2::2]]
    assert found["measured"]["system"] == "s" and found["measured"]["max_new_tokens"] == 3

    streamed = said(b"a\nb\n", "--system", "s")
    assert streamed.out.split("\n")[:2] == [answer["text"] for answer in found["answers"]]
    assert "tokens/s" in streamed.err
    cleared = said(b"a\n/clear\nb\n/bye\nc\n", "--json").json
    assert [m["content"] for m in cleared["messages"]][:1] == ["b"] and len(cleared["answers"]) == 2
    assert said(b"", "--json").json["answers"] == []

    for lines, arguments, of, sentence in (
        (b"\xff\n", (), folder, "no text in UTF-8"),
        (b"a\n", (), converted("llama", bits="8-8"), "no chat template"),
        (b"a\n", (), converted("bert"), "text to go on with"),
        (b"a" * 999, (), folder, "no room to answer"),
        (b"a\n", ("--temperature", "1e-300"), folder, "from 0.001 to 1000"),
        (b"a\n", ("--temperature", "inf"), folder, "from 0.001 to 1000"),
    ):
        refused = said(lines, *arguments, of=of)
        assert refused.code == 2 and sentence in refused.err and "Traceback" not in refused.err
    assert said(b"a\n", "--seed", 10**30).code == 2
