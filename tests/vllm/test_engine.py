"""vLLM's engine in processes of its own: two ranks compute what one does, and compiled graphs are put to use."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GENERATE = """
import json, sys
from vllm import LLM, SamplingParams, TokensPrompt
if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    llm = LLM(sys.argv[1], dtype="float32", max_model_len=64, kv_cache_memory_bytes=1 << 25, max_num_seqs=8, **options)
    prompts = [TokensPrompt(prompt_token_ids=[*range(s, s + 10)]) for s in range(3, 63, 3)]
    sampling = SamplingParams(temperature=0, max_tokens=20, logprobs=1, detokenize=False)
    outputs = [request.outputs[0] for request in llm.generate(prompts, sampling, use_tqdm=False)]
    scores = [[next(iter(each.values())).logprob for each in output.logprobs] for output in outputs]
    with open(sys.argv[3], "w") as file:
        json.dump([[[*output.token_ids], score] for output, score in zip(outputs, scores)], file)
"""


@pytest.fixture
def generate(tmp_path: Path) -> Callable[..., Any]:
    """`generate(checkpoint, **options)`: tokens and their log probabilities for twenty prompts, or what went wrong."""
    (tmp_path / "generate.py").write_text(GENERATE)

    def run(checkpoint: Path, **options: Any) -> Any:
        out = tmp_path / "out.json"
        words = [tmp_path / "generate.py", checkpoint, json.dumps(options), out]
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=500)
        return done.stdout + done.stderr if done.returncode else json.loads(out.read_text())

    return run


def test_two_ranks_are_as_one(
    tiny: Callable[..., Path], generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: rows are split, and rows of one rank are added to zeros of the other."""
    checkpoint = tiny("qwen2")  # with biases
    one = generate(checkpoint, enforce_eager=True)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    assert generate(checkpoint, enforce_eager=True, tensor_parallel_size=2) == one
    assert len(one) == 20 and len({tuple(tokens) for tokens, _ in one}) > 10


def test_ranks_that_do_not_divide_are_told(
    tiny: Callable[..., Path], generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    said = generate(tiny("llama", {"intermediate_size": 189}), enforce_eager=True, tensor_parallel_size=2)
    assert "does not divide the model's inner size (189); possible here: 1." in said


def test_compiled_it_computes_the_same(tiny: Callable[..., Path], generate: Callable[..., Any]) -> None:
    """But for how a graph rounds norms and SiLU, of which fine counts make little; the first token of each prompt."""
    settings = {"weights": {"bits": 8}, "inputs": {"step": 0.005}, "code": {"slots": 64}}
    checkpoint = tiny("llama", scheme="ramp-5", **settings)
    eager, compiled = generate(checkpoint, enforce_eager=True), generate(checkpoint)
    for (_, one), (_, other) in zip(eager, compiled, strict=True):
        assert other[0] == pytest.approx(one[0], abs=0.01)
