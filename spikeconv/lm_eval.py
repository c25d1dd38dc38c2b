"""lm-eval's own command line, with a model that is called `spikeconv`.

    python -m spikeconv.lm_eval --model spikeconv --model_args pretrained=DIR --tasks piqa

lm-eval knows models by a table in its own package and looks for no plug-ins (0.4.13), so that somebody has to import
ours before it reads its arguments; all of them are lm-eval's.
"""

import sys
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.integrations.lm_eval import HarnessModel
from spikeconv.placing import Placing
from spikeconv.progress import silent
from spikeconv.ranks import current, joined

__all__ = ["SpikingModel", "main"]

DEFAULT = "cuda:0"
"""What lm-eval says where nobody named a device, if there is a GPU or not."""


@register_model("spikeconv")
class SpikingModel(HarnessModel):
    """A converted checkpoint, as `--model_args` describe it.

    Args:
        pretrained: its folder.
        batch_size: sequences, or "auto".
        device: as torch names it, or "auto"; of several processes each takes its own GPU.
        model_parallel: spread it over all GPUs, main memory and the disk.
        max_batch_size: lm-eval gives it; batches go by memory here.
        settings: what else `load_checkpoint` takes: dtype, execution, head_bits, cache_dtype, trust_remote_code.

    Raises:
        SpikeconvError: it cannot be loaded, or there is no such setting.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = "auto",
        device: str | None = None,
        model_parallel: bool = False,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        known = ("dtype", "execution", "head_bits", "cache_dtype", "trust_remote_code")
        if unknown := [name for name in settings if name not in known]:
            named = ", ".join(("pretrained", "batch_size", "device", "model_parallel", *known))
            raise SpikeconvError(f"--model_args has {unknown[0]}; model spikeconv takes {named}.")
        if not Path(pretrained).is_dir():
            raise SpikeconvError(f"--model_args pretrained={pretrained}: there is no such folder.")
        placing = Placing() if model_parallel else None
        own = current().device("auto" if device in (None, DEFAULT) else str(device))
        loaded = load_checkpoint(Path(pretrained), device=own, placing=placing, **settings)
        sequences = batch_size if batch_size == "auto" else int(batch_size)
        super().__init__(loaded.model, loaded.tokenizer, sequences, silent, current())


def main() -> None:
    """Run it; bad input of ours is one line, as everywhere."""
    try:
        with joined():
            cli_evaluate()
    except SpikeconvError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
