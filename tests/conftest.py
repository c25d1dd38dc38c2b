"""Tiny random models of every family, saved and converted once a session. Nothing here needs a network.

Sizes are not powers of two, head counts are odd ones, norms and biases are random: what a conversion could forget
shows in the logits.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # before anything of Hugging Face is imported

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from real_model import TOKENS, WINDOW, python_docs
from tiny_models import FAMILIES, TRANSFORMERS, save_model
from torch import nn
from transformers import AutoModelForCausalLM

from spikeconv.checkpoint import folder
from spikeconv.config import GifInputs, SpikeConfig
from spikeconv.conversion.linear import Calibrated, convert_linear
from spikeconv.conversion.pipeline import ConvertSummary, convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.integrations.engine import modules_only
from spikeconv.nn import SpikeGroup, SpikeLinear
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.sources.resolve import resolve_source

CONVERTED: list[Path] = []
"""The checkpoints that tests of this process share."""

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


LONGEST = ("test_end_to_end.py", "test_end_to_end_settings.py", "test_rwkv_end_to_end.py", "ops/", "kernels/")
"""Files and folders that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: two workers share files, and none is to run one alone at the end."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((index for index, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=place)


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
            save_model(family, overrides, made[key])
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
    """`converted(family, **settings)`: a converted checkpoint, to be read only but for the results beside it."""
    made: dict[str, Path] = {}

    def checkpoint(family: str = "llama", **settings: Any) -> Path:
        key = f"{family} {sorted(settings.items())}"
        if key not in made:
            output = tmp_path_factory.mktemp(f"{family}-spiking") / "model"
            run_convert(tiny_checkpoint(family), output, **settings)
            made[key] = output
            CONVERTED.append(output)
        return made[key]

    return checkpoint


@pytest.fixture(autouse=True)
def no_results_left() -> Iterator[None]:
    """Of what one test evaluates, no other finds results beside the checkpoint that they share."""
    yield
    for path in CONVERTED:
        shutil.rmtree(path / "eval", ignore_errors=True)


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
    """`logits_of(model or checkpoint directory, **from_pretrained arguments)`, by the model's modules."""

    def logits(model: Any, **arguments: Any) -> torch.Tensor:
        if isinstance(model, Path):
            model = AutoModelForCausalLM.from_pretrained(model, **arguments)
        with torch.no_grad(), modules_only(model):
            result: torch.Tensor = model.eval()(tokens.to(model.device)).logits
        return result

    return logits


@pytest.fixture(scope="session")
def real_source() -> Path:
    """The embedded real model."""
    return resolve_source("smollm2-135m")


@pytest.fixture(scope="session")
def float_perplexity(real_source: Path) -> float:
    """Of the real model, on Python's documentation."""
    return perplexity(load_float(real_source), python_docs(), window=WINDOW, max_tokens=TOKENS).perplexity


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
        salient = (torch.arange(in_features) % 7 == 3).to(torch.uint8) if isinstance(scheme.inputs, GifInputs) else None
        held = Calibrated(None if scheme.clip is None else threshold, salient=salient)
        tensors = convert_linear(plain.weight, scheme, held=held).tensors
        linear.load_state_dict({**tensors, **({"bias": plain.bias} if bias else {})})
        return linear, plain

    torch.manual_seed(11)
    return make
