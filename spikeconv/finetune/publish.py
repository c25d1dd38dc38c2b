"""Writes a fine-tuned model as an ordinary checkpoint, with the record of its thresholds."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from spikeconv.calibrate.record import RECORD, ClipRecord
from spikeconv.calibrate.thresholds import thresholds_of
from spikeconv.checkpoint.scratch import Scratch
from spikeconv.config import SpikeConfig
from spikeconv.disk import plain_errors
from spikeconv.finetune.session import Session
from spikeconv.quiet import quiet_transformers

__all__ = ["publish"]


def publish(session: Session, output: Path, tokenizer: Any, config: SpikeConfig) -> None:
    """Write the model, its tokenizer and the record of its thresholds; all processes must call it.

    Args:
        session: the finished fine-tune.
        output: the directory to create or replace.
        tokenizer: the model's.
        config: says where and how it was clipped.
    """
    weights = session.accelerator.get_state_dict(session.model)  # gathered from all processes, so all must ask
    if not session.accelerator.is_main_process or session.result is None:
        return
    settings = session.settings
    record = ClipRecord(
        clip_mode=settings.clip_mode,
        clip_quantile=settings.clip_quantile,
        rotation=config.rotation.kind,
        seed=config.rotation.seed,
        thresholds=thresholds_of(session.clips),
        training={**settings.model_dump(mode="json"), **asdict(session.result)},
    )
    with Scratch(output, RECORD, force=True) as target, quiet_transformers():
        with plain_errors(target.scratch):
            session.accelerator.unwrap_model(session.model).save_pretrained(target.scratch, state_dict=weights)
            tokenizer.save_pretrained(target.scratch)
        (target.scratch / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        target.publish()
