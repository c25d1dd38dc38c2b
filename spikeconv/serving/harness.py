"""lm-eval's own class for models that vLLM runs, around a converted checkpoint."""

import os
from pathlib import Path
from typing import Any

from spikeconv.serving.versions import check_vllm

__all__ = ["vllm_harness"]

LOGGING = {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}
"""stdout is for results. (vLLM reads this when it is imported, and in each of its processes.)"""


def vllm_harness(path: Path, dtype: str, batch_size: int | str) -> Any:
    """A model for lm-eval that counts its `tokens` and says what it computes with (`compute`).

    Args:
        path: of a checkpoint.
        dtype: of what stays float; "auto" is the checkpoint's own.
        batch_size: texts that vLLM is given at once, or "auto": all.

    Raises:
        SpikeconvError: vLLM is not there or another, or cannot run that checkpoint.
    """
    check_vllm()
    for name, value in LOGGING.items():
        os.environ.setdefault(name, value)

    from lm_eval.models.vllm_causallms import VLLM  # which imports vLLM

    from spikeconv.serving.command import check_servable

    class VllmHarness(VLLM):  # type: ignore[misc]  # neither ships types
        """Counts what goes in and comes out."""

        tokens = 0

        @property
        def compute(self) -> dict[str, str]:
            """As `LoadedModel.compute`."""
            config = self.model.llm_engine.vllm_config
            dtype = str(config.model_config.dtype).removeprefix("torch.")
            return {"dtype": dtype, "device": f"{config.device_config.device_type} (vLLM)"}

        def _model_generate(self, requests: Any, *arguments: Any, **options: Any) -> Any:
            outputs = super()._model_generate(requests, *arguments, **options)
            self.tokens += sum(map(len, requests)) + sum(len(each.outputs[0].token_ids) for each in outputs)
            return outputs

    own = check_servable(path)
    return VllmHarness(pretrained=str(path), dtype=own if dtype == "auto" else dtype, batch_size=batch_size)
