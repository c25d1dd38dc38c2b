"""Odd files in a checkpoint: the command works, or ends with a sentence and exit code 2. Never a bug, never a hang."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from spikeconv.evaluate.models import load_checkpoint

Run = Callable[..., Any]
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def with_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        change(value)
        (folder / name).write_text(json.dumps(value))

    return edit


def with_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


ODD: dict[str, Callable[[Path], None]] = {
    "newer merges": with_json("tokenizer.json", lambda j: j["model"].update(merges=[{"new": "format"}])),
    "tokenizer of a newer type": with_json("tokenizer.json", lambda j: j["model"].update(type="Quantum")),
    "tokenizer.json no JSON": with_text("tokenizer.json", "{"),
    "tokenizer.json a list": with_text("tokenizer.json", "[]"),
    "tokenizer_config a list": with_text("tokenizer_config.json", "[]"),
    "tokenizer_config no JSON": with_text("tokenizer_config.json", "no"),
    "no tokenizer": lambda folder: [p.unlink() for p in folder.glob("tokenizer*")] and None,
    "more tokens than the model": with_json("config.json", lambda j: j.update(vocab_size=60)),
    "config a string for a number": with_json("config.json", lambda j: j.update(num_attention_heads="nine")),
    "config without heads": with_json("config.json", lambda j: j.update(num_attention_heads=0)),
    "config negative": with_json("config.json", lambda j: j.update(hidden_size=-72)),
    "config of another type": with_json("config.json", lambda j: j.update(model_type="nova", architectures=["Nova"])),
    "config odd rope": with_json("config.json", lambda j: j.update(rope_parameters={"rope_type": "spiral"})),
    "config odd activation": with_json("config.json", lambda j: j.update(hidden_act="swoosh")),
    "config a list": with_text("config.json", "[]"),
    "config odd end": with_json("config.json", lambda j: j.update(eos_token_id="</s>")),
    "generation no JSON": with_text("generation_config.json", "{"),
    "generation a list": with_text("generation_config.json", "[]"),
}

GENERATION: list[dict[str, Any]] = [
    {"num_beams": 4},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"num_beams": "many"},
    {"num_return_sequences": 3},
    {"do_sample": True, "temperature": 0.0},
    {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
    {"top_p": 5.0},
    {"top_k": -1},
    {"top_k": "all"},
    {"repetition_penalty": -1.0},
    {"repetition_penalty": "strong"},
    {"eos_token_id": 99999},
    {"eos_token_id": -1},
    {"eos_token_id": [0, 99999]},
    {"eos_token_id": "</s>"},
    {"eos_token_id": [[1]]},
    {"eos_token_id": True},
    {"pad_token_id": 99999},
    {"cache_implementation": "static"},
    {"cache_implementation": "quantized"},
    {"cache_implementation": "no such cache"},
    {"use_cache": False},
    {"max_length": 1},
    {"max_new_tokens": 0},
    {"min_length": 900},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"prompt_lookup_num_tokens": 3},
    {"stop_strings": ["a"]},
    {"return_dict_in_generate": True, "output_scores": True},
    {"forced_eos_token_id": 99999},
    {"bad_words_ids": [[]]},
    {"suppress_tokens": [99999]},
    {"no_repeat_ngram_size": "two"},
    {"guidance_scale": 2.0},
    {"watermarking_config": {"bias": 2.0}},
    {"token_healing": True},
    {"transformers_version": "99.0", "an unknown setting": 1},
]


@pytest.fixture
def model(converted: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A fresh copy of a converted checkpoint at every call."""
    count = iter(range(10**6))

    def copy() -> Path:
        return Path(shutil.copytree(converted("llama", kv_bits=4), tmp_path / str(next(count))))

    return copy


def ends_well(result: Any, what: object) -> None:
    assert result.code in (0, 2), (what, result)
    assert "Traceback" not in result.err and "this is a bug" not in result.err, (what, result)
    assert result.code == 0 or (result.err.startswith("error: ") and result.err.count("\n") == 1), (what, result)


def test_odd_files(spikeconv: Run, model: Callable[[], Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 2, encoding="utf-8")
    refused = 0
    for name, spoil in ODD.items():
        folder = model()
        spoil(folder)
        for arguments in (
            ("generate", folder, "-n", 2),
            ("verify", folder, "--text", text, "--tokens", 4, "--no-source"),
            ("perplexity", folder, "--text", text, "--window", 16),
            ("report-firing-rate", folder, "--text", text, "--tokens", 4, "--summary"),
        ):
            result = spikeconv(*arguments, "-q")
            ends_well(result, name)
            refused += result.code == 2
    assert refused > 40


def test_generation_settings(spikeconv: Run, model: Callable[[], Path]) -> None:
    """Beams and other strategies are left out, odd values ignored; what makes tokens likely is kept or refused."""
    plain = model()
    (plain / "generation_config.json").unlink(missing_ok=True)
    greedy = spikeconv("generate", plain, "-n", 6, "-q").out
    for settings in GENERATION:
        (plain / "generation_config.json").write_text(json.dumps(settings))
        for temperature in (0, 0.8):
            ends_well(spikeconv("generate", plain, "-n", 6, "-q", "--temperature", temperature), settings)
        result = spikeconv("generate", plain, "-n", 6, "-q")
        if not settings.keys() & {"top_k", "repetition_penalty", "suppress_tokens", "bad_words_ids", "top_p"} | {
            "no_repeat_ngram_size"
        }:
            assert result.code == 0 and result.out == greedy, settings


def test_chat_templates(spikeconv: Run, model: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model()
    refused = spikeconv("generate", folder, "--chat", "-q")
    assert refused.code == 2 and "no chat template" in refused.err
    template = folder / "chat_template.jinja"
    for text in ("{% for %}", "{{ 1 / 0 }}", "{{ raise_exception('no system role [x]') }}", "{{ missing.field }}", " "):
        template.write_text(text)
        ends_well(spikeconv("generate", folder, "--chat", "-q", "-n", 2), text)

    # The template brings the first token; a tokenizer that adds one too must not add it again.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template.write_text(TEMPLATE)
    with_json("tokenizer_config.json", lambda j: j.update(add_bos_token=True))(folder)
    with_json("tokenizer.json", lambda j: j.update(post_processor={
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [tokenizer.bos_token_id], "tokens": ["<s>"]}},
    }))(folder)  # fmt: skip
    loaded = load_checkpoint(folder)
    assert loaded.tokenizer("x")["input_ids"][0] == loaded.tokenizer.bos_token_id
    seen: list[list[int]] = []
    generate = type(loaded.model).generate
    monkeypatch.setattr(
        type(loaded.model),
        "generate",
        lambda self, **k: (seen.append(k["input_ids"][0].tolist()), generate(self, **k))[1],
    )
    assert spikeconv("generate", folder, "--chat", "-p", "hello", "-n", 2, "-q").code == 0
    message = [{"role": "user", "content": "hello"}]
    expected = loaded.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert seen == [expected] and expected.count(loaded.tokenizer.bos_token_id) == 1


def test_prompts_and_answers_that_fill_the_context(spikeconv: Run, model: Callable[[], Path]) -> None:
    folder = model()  # 64 tokens, one a byte
    result = spikeconv("generate", folder, "-p", "x" * 64, "-n", 3, "-q")
    assert result.code == 2 and "64 tokens" in result.err
    assert spikeconv("generate", folder, "-p", "x" * 61, "-n", 9, "-q", "--json").json["tokens"] <= 3
    assert spikeconv("generate", folder, "-p", "", "-q").code == 2


def test_a_checkpoint_that_was_saved_again(spikeconv: Run, model: Callable[[], Path], tmp_path: Path) -> None:
    """`save_pretrained` and `push_to_hub` leave the record out."""
    folder = model()
    loaded = load_checkpoint(folder)
    loaded.model.save_pretrained(tmp_path / "again")
    loaded.tokenizer.save_pretrained(tmp_path / "again")
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times. " * 4, encoding="utf-8")
    for command in (
        ("generate", "-n", 3),
        ("perplexity", "--text", text, "--window", 16),
        ("report-firing-rate", "--text", text, "--tokens", 9),
    ):
        first, again = (spikeconv(*command, path, "-q", "--json") for path in (folder, tmp_path / "again"))
        assert again.code == 0, again
        named = ("measured", "checkpoint", "output")
        results = [{k: v for k, v in r.json.items() if "second" not in k and k not in named} for r in (first, again)]
        assert results[0] == results[1]
    verified = spikeconv("verify", tmp_path / "again", "--text", text, "--tokens", 4, "-q", "--json")
    assert verified.code == 0 and any("record" in note for note in verified.json["notes"])
    refused = spikeconv("perplexity", tmp_path / "again", "--text", text, "--window", 16, "--baseline", "-q")
    assert refused.code == 2 and "without its record spikeconv.json" in refused.err
