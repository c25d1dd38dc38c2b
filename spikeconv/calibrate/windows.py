"""The text that a conversion is calibrated on, as windows of token ids, and what is remembered of it.

A seed chooses what is read: for `mixed` the order of the documents, for a text the windows of it.
"""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from spikeconv.config import Options
from spikeconv.config.base import Whole
from spikeconv.data.mix import mixed_documents
from spikeconv.data.texts import check_dataset, check_text, longest_window, read_text, training_text
from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import text_digest

if TYPE_CHECKING:
    from torch import Tensor

    from spikeconv.sources.base import Source

__all__ = ["MIXED", "STATISTICS_TOKENS", "Calibration", "CalibrationText"]

MIXED = "mixed"
WINDOW = 1024
"""Tokens of a window, where the model can hold so many."""
STATISTICS_TOKENS = 16384
"""Enough for mean squares of channels."""
CHARACTERS = 16
"""Characters that are read per token asked for; tokenizers of words need five, those of bytes one."""


@dataclass(frozen=True)
class CalibrationText:
    """Token ids of a text, and what it is.

    Attributes:
        windows: token ids [windows, tokens].
        record: what the checkpoint's record says of them.
    """

    windows: "Tensor"
    record: dict[str, Any]


class Calibration(Options):
    """What a conversion is calibrated on, where it asks for a text."""

    calibration: str = Field(MIXED, description="a text file, a dataset on the hub, or mixed (needs none)")
    calibration_tokens: Whole | None = Field(None, ge=2, description="tokens of it to read")
    calibration_seed: Whole = Field(0, ge=0, lt=2**32, description="seed of the choice of documents or windows")

    @field_validator("calibration", mode="before")
    @classmethod
    def _named(cls, calibration: Any) -> Any:
        return str(calibration) if isinstance(calibration, Path) else calibration

    def read(self, source: "Source", tokens: int = STATISTICS_TOKENS) -> CalibrationText:
        """The windows for a source's model.

        Args:
            source: its config and tokenizer are read.
            tokens: how many, unless the settings say it.

        Raises:
            SpikeconvError: the text cannot be had, or is too short.
        """
        import torch  # the command line checks the settings without it

        from spikeconv.sources.model_config import build_empty, hf_config

        text, label = self._text()
        model = build_empty(hf_config(source.config))
        wanted = self.calibration_tokens or tokens
        window = min(WINDOW, wanted, longest_window(model) or WINDOW)
        generator = random.Random(self.calibration_seed)
        if isinstance(text, list):
            generator.shuffle(text)
            part = "\n\n".join(text)[: CHARACTERS * wanted]
        else:
            begin = generator.randint(0, max(0, len(text) - CHARACTERS * wanted))
            part = text[begin : begin + CHARACTERS * wanted]
        ids = text_ids(model, source.tokenizer(), part) if part.strip() else torch.zeros(0, dtype=torch.long)
        found, count = len(ids) // window, wanted // window
        if found < count:
            raise SpikeconvError(
                f"The calibration text {label} has {len(ids):,} tokens, fewer than the {wanted:,} asked for; give a "
                "longer one with --calibration or lower --calibration-tokens."
            )
        windows = ids[: found * window].view(found, window)
        windows = windows[sorted(generator.sample(range(found), count))].contiguous()
        record = {
            "text": label,
            "tokens": windows.numel(),
            "window": window,
            "seed": self.calibration_seed,
            "ids_sha256": hashlib.sha256(windows.numpy().astype("<i8").tobytes()).hexdigest(),
            "text_sha256": None if isinstance(text, list) else text_digest(text),
        }
        return CalibrationText(windows, record)

    def check(self) -> None:
        """Check that the text may be there, without reading all of it.

        Raises:
            SpikeconvError: it is not.
        """
        check_dataset(self.calibration, "--calibration", MIXED)
        if Path(self.calibration).exists():
            check_text(Path(self.calibration), "--calibration")

    def _text(self) -> tuple[str | list[str], str]:
        """The text, or documents in any order, and what to call it."""
        if self.calibration == MIXED:
            return mixed_documents(), MIXED
        if Path(self.calibration).exists():
            return read_text(Path(self.calibration))
        self.check()
        return training_text(None, self.calibration)
