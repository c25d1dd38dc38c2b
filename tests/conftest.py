"""Tiny random models of every family, saved and converted once a session. Nothing here needs a network.

Sizes are not powers of two, head counts are odd ones, norms and biases are random: what a conversion could forget
shows in the logits.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # before anything of Hugging Face is imported

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from spikeconv.checkpoint import folder
from spikeconv.config import SpikeConfig
from spikeconv.conversion.linear import convert_linear
from spikeconv.conversion.pipeline import ConvertSummary, convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.nn import SpikeGroup, SpikeLinear
from spikeconv.sources.hf import HfSource

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 72,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 100,
        "tie_word_embeddings": True,
    },
    "mistral": {  # 90 has no Hadamard matrix: blocks of 2
        "hidden_size": 96,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "intermediate_size": 90,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "hidden_size": 56,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 76,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "hidden_size": 60,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 8,  # not 60 / 15
        "intermediate_size": 92,
        "tie_word_embeddings": False,
    },
    "rwkv": {"hidden_size": 72, "intermediate_size": 100},
    "rwkv6": {
        "hidden_size": 72,
        "head_size": 8,
        "intermediate_size": 100,
        "time_mix_extra_dim": 4,
        "time_decay_extra_dim": 6,
    },
    "rwkv7": {
        "hidden_size": 72,
        "head_dim": 8,
        "intermediate_size": 100,
        "decay_low_rank_dim": 6,
        "gate_low_rank_dim": 10,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 4,
    },
}
TRANSFORMERS = [name for name in FAMILIES if not name.startswith("rwkv")]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TRANSFORMERS)
def transformer(request: pytest.FixtureRequest) -> str:
    """A family with attention."""
    return str(request.param)


@pytest.fixture(params=[name for name in FAMILIES if name not in TRANSFORMERS])
def recurrent(request: pytest.FixtureRequest) -> str:
    """A family without."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_checkpoint(family, **config_fields)`: a float checkpoint, to be read only (copy it before changing it)."""
    made: dict[str, Path] = {}

    def checkpoint(family: str = "llama", **overrides: Any) -> Path:
        key = f"{family} {sorted(overrides.items())}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp(family)
            _save_model(family, overrides, made[key])
        return made[key]

    return checkpoint


@pytest.fixture(scope="session")
def run_convert() -> Callable[..., ConvertSummary]:
    """`run_convert(source_dir, output_dir, **settings)`: a whole conversion."""

    def run(
        source: Path,
        output: Path,
        *,
        force: bool = False,
        dtype: Any = None,
        writing: Writing | None = None,
        **settings: Any,
    ) -> ConvertSummary:
        config, opened = SpikeConfig.parse(settings), HfSource(source)
        writing = writing or Writing(force=force)
        return convert(opened, make_plan(opened, config), output, command="test", dtype=dtype, writing=writing)

    return run


@pytest.fixture(scope="session")
def converted(
    tiny_checkpoint: Callable[..., Path],
    run_convert: Callable[..., ConvertSummary],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """`converted(family, **settings)`: a converted checkpoint, to be read only."""
    made: dict[str, Path] = {}

    def checkpoint(family: str = "llama", **settings: Any) -> Path:
        key = f"{family} {sorted(settings.items())}"
        if key not in made:
            output = tmp_path_factory.mktemp(f"{family}-spiking") / "model"
            run_convert(tiny_checkpoint(family), output, **settings)
            made[key] = output
        return made[key]

    return checkpoint


@pytest.fixture(scope="session", autouse=True)
def made_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this process notes what it converted: one place, for tests with caches of their own share checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("made-here")
        patch.setattr(folder, "notes_dir", lambda: place)
        yield place


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """[2, 11] token ids below every tiny vocabulary."""
    return torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def logits_of(tokens: torch.Tensor) -> Callable[..., torch.Tensor]:
    """`logits_of(model or checkpoint directory, **from_pretrained arguments)`."""

    def logits(model: Any, **arguments: Any) -> torch.Tensor:
        if isinstance(model, Path):
            model = AutoModelForCausalLM.from_pretrained(model, **arguments)
        with torch.no_grad():
            result: torch.Tensor = model.eval()(tokens.to(model.device)).logits
        return result

    return logits


def _save_model(family: str, overrides: dict[str, Any], path: Path) -> None:
    tokenizer = _tokenizer()
    fields = {"num_hidden_layers": 2, "max_position_embeddings": 64, "initializer_range": 0.1, "dtype": "float32"}
    config = AutoConfig.for_model(
        family,
        **{**fields, **FAMILIES[family], "vocab_size": len(tokenizer), **overrides},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(len(family))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.5)
            elif "norm" in name or ".ln" in name or "pre_ln" in name:
                parameter.normal_(1, 0.4)
            elif not parameter.any() or "time_" in name or "lora" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


MakeLinear = Callable[..., tuple[SpikeLinear, nn.Linear]]


@pytest.fixture
def make_linear() -> MakeLinear:
    """`make_linear(in, out, bias=…, group=…, **settings)` → (converted, float), with random weights."""

    def make(
        in_features: int = 72,
        out_features: int = 19,
        *,
        bias: bool = True,
        group: Any = None,
        threshold: float | None = None,
        **settings: Any,
    ) -> tuple[SpikeLinear, nn.Linear]:
        scheme = SpikeConfig.parse(settings)
        plain = nn.Linear(in_features, out_features, bias).requires_grad_(False)
        linear = SpikeLinear(in_features, out_features, scheme, group or SpikeGroup(in_features, scheme), bias=bias)
        tensors = convert_linear(plain.weight, scheme, threshold=threshold).tensors
        linear.load_state_dict({**tensors, **({"bias": plain.bias} if bias else {})})
        return linear, plain

    torch.manual_seed(11)
    return make
