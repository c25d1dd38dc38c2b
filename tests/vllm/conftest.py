"""vLLM in this process: its layers without its engine. Run by scripts/test --vllm, in an environment of its own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_LOGGING_STREAM="ext://sys.stderr", HF_HUB_OFFLINE="1")

import pytest
import torch
from tiny_models import save_model
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.plugins import load_general_plugins

import spikeconv

SIZES = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # which vLLM's attention on a CPU can
    "intermediate_size": 192,
    "max_position_embeddings": 256,
}

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """`tiny(family, fields, **settings)`: a converted model of two layers, of sizes that vLLM can run."""

    def make(family: str = "llama", fields: dict[str, Any] | None = None, **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp(family)
        save_model(family, {**SIZES, **(fields or {})}, folder / "float")
        spikeconv.convert(folder / "float", folder / "spiking", **settings)
        return folder / "spiking"

    return make


def engine_config(checkpoint: Path, **options: Any) -> VllmConfig:
    """What vLLM makes of a checkpoint and its own options, before anything runs."""
    load_general_plugins()
    small = {"enforce_eager": True, "max_model_len": 64, "kv_cache_memory_bytes": 1 << 24}
    return EngineArgs(model=str(checkpoint), **{"dtype": "float32", **small, **options}).create_engine_config()


@pytest.fixture
def configure() -> Callable[..., VllmConfig]:
    """`configure(checkpoint, **options)`: `engine_config`."""
    return engine_config


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> None:
    """vLLM's process groups, of this process alone."""
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{tmp_path_factory.mktemp('rank') / 'store'}", 0, backend="gloo")
        initialize_model_parallel(1, 1)


@pytest.fixture
def load(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., torch.nn.Module]]:
    """`load(checkpoint, **options)`: vLLM's own model of it."""
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)  # as vLLM's worker for CPUs does

    def model(checkpoint: Path, **options: Any) -> torch.nn.Module:
        config = engine_config(checkpoint, **options)
        with set_current_vllm_config(config):
            return get_model(vllm_config=config)

    yield model
