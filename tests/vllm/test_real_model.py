"""The embedded model by vLLM's engine: the tokens that transformers chooses, and a server that `openai` talks to.

Rounding to counts makes small differences large: transformers' own two ways to compute attention lead the default
conversion to different tokens within a sentence (docs/engine.md). So the model is converted finely here, and tokens
are compared for as long as transformers' choice is clear.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from transformers import AutoTokenizer

import spikeconv

PROMPTS = [
    "The capital of France is", "Once upon a time, in a small village by the sea,", "Water boils at a temperature of",
    "The three primary colours are", "def fibonacci(n):", "Photosynthesis is the process by which",
    "In 1969, the first human", "The largest planet in the solar system is", "My favourite recipe begins with",
    "To be, or not to be,", "A triangle has three sides and", "The theory of evolution explains",
    "Computers store numbers as", "Bread is made from flour,", "The heart pumps blood through",
    "She opened the door and saw", "The French Revolution began in", "An electron has a", "Dear Sir or Madam,",
    "The quick brown fox", "Winter is colder than summer because", "Shakespeare wrote", "The speed of light is",
    "If it rains tomorrow, we will", "The chemical symbol of gold is", "A good teacher knows", "Mount Everest is",
    "import numpy as np\n", "The first rule of writing is", "Rivers flow from",
]  # fmt: skip
NEW = 12
CLEAR = 0.08
"""Logits by which a token must lead to be the same in every case: the order of sums moves a lead by up to .035 here."""


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with 8-bit weights and counts up to 2,080 in steps of RMS / 200."""
    folder = tmp_path_factory.mktemp("fine") / "smollm2-fine"
    settings = {"weights": {"bits": 8}, "inputs": {"step": 0.005}, "code": {"slots": 64}, "balance": "none"}
    spikeconv.convert("smollm2-135m", folder, scheme="ramp-5", **settings)
    return folder


@pytest.fixture(scope="module")
def server(fine: Path) -> Iterator[str]:
    """The address of `spikeconv serve`, with eight requests at a time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = ["--max-num-seqs", "8", "--max-model-len", "256", "--kv-cache-memory-bytes", str(1 << 28), "--enforce-eager"]
    words = ["serve", str(fine), "--host", "127.0.0.1", "--port", str(port), "--", *own]
    process = subprocess.Popen([sys.executable, "-m", "spikeconv", *words], start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError("the server did not start")


def greedy_tokens(fine: Path) -> list[tuple[list[int], int]]:
    """What transformers adds to each prompt, and how many of these come before the first whose lead is not clear."""
    model, tokenizer = spikeconv.load(fine), AutoTokenizer.from_pretrained(fine)
    result: list[tuple[list[int], int]] = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        answer = model.generate(
            **ids, do_sample=False, max_new_tokens=NEW, output_scores=True, return_dict_in_generate=True
        )
        leads = [float(-scores[0].topk(2).values.diff()) for scores in answer.scores]
        clear = next((i for i, lead in enumerate(leads) if lead < CLEAR), NEW)
        result.append((answer.sequences[0, ids.input_ids.shape[1] :].tolist(), clear))
    return result


def test_served_tokens_are_those_of_transformers(fine: Path, server: str) -> None:
    """Thirty requests at once for eight places, each of its own length: they enter and leave the batch at any time."""
    client = openai.OpenAI(base_url=server, api_key="none")
    assert [model.id for model in client.models.list()] == ["smollm2-fine"]
    tokenizer = AutoTokenizer.from_pretrained(fine)

    def ask(index: int) -> list[int]:
        options = {"return_token_ids": True}
        answer = client.completions.create(
            model="smollm2-fine", prompt=PROMPTS[index], max_tokens=NEW + index % 5, temperature=0, extra_body=options
        )
        ids: list[int] = answer.choices[0].token_ids  # type: ignore[attr-defined]
        assert tokenizer.decode(ids, skip_special_tokens=True) == answer.choices[0].text
        return ids

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        served = list(pool.map(ask, range(len(PROMPTS))))
    expected = greedy_tokens(fine)
    for prompt, ids, (tokens, clear) in zip(PROMPTS, served, expected, strict=True):
        assert ids[:clear] == tokens[:clear], prompt
    whole = [ids[:NEW] == tokens for ids, (tokens, _) in zip(served, expected, strict=True)]
    assert sum(whole) >= 20, f"all {NEW} tokens are equal for {sum(whole)} prompts"


def test_the_server_chats_and_streams(server: str) -> None:
    client = openai.OpenAI(base_url=server, api_key="none")
    messages = [{"role": "user", "content": "Name a colour."}]
    whole = client.chat.completions.create(model="smollm2-fine", messages=messages, max_tokens=12, temperature=0)
    parts = client.chat.completions.create(
        model="smollm2-fine", messages=messages, max_tokens=12, temperature=0, stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content != ""
