"""The configurations for accelerate that ship, and what accelerate would do otherwise without a word."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState

from spikeconv.errors import SpikeconvError
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.finetune.train import make_accelerator

SETTINGS = FinetuneSettings(source="model", text="text", text_sha256="")
CONFIGS = Path(__file__).parents[2] / "configs/accelerate"
ASKED = {"fsdp": "ACCELERATE_USE_FSDP", "deepspeed-zero2": "ACCELERATE_USE_DEEPSPEED", "ddp": None}
"""What `accelerate launch` tells the processes that it starts with each."""


@pytest.fixture
def fresh() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_configurations_are_what_accelerate_reads() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == ASKED.keys()
    kinds = {name: load_config_from_file(str(CONFIGS / f"{name}.yaml")).distributed_type for name in ASKED}
    assert {name: str(kind).rpartition(".")[2] for name, kind in kinds.items()} == {
        "fsdp": "FSDP", "deepspeed-zero2": "DEEPSPEED", "ddp": "MULTI_GPU"
    }  # fmt: skip


@pytest.mark.usefixtures("fresh")
def test_a_way_to_share_that_a_cpu_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_accelerator(SETTINGS, cpu=True).device.type == "cpu"
    for name in filter(None, ASKED.values()):
        AcceleratorState._reset_state(reset_partial_state=True)
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            with pytest.raises(SpikeconvError, match=r"has on GPUs only|DeepSpeed is not installed"):
                make_accelerator(SETTINGS, cpu=True)
