"""Writes a fine-tuned model as an ordinary checkpoint, with the record of what its conversion must know."""

from pathlib import Path
from typing import Any

from spikeconv.checkpoint.scratch import Scratch
from spikeconv.disk import plain_errors
from spikeconv.finetune.session import Session
from spikeconv.quiet import quiet_transformers

__all__ = ["publish"]


def publish(session: Session, output: Path, tokenizer: Any) -> None:
    """Write the model, its tokenizer and the record of its method; all processes must call it.

    Args:
        session: the finished fine-tune.
        output: the directory to create or replace.
        tokenizer: the model's.
    """
    weights = session.accelerator.get_state_dict(session.model)  # gathered from all processes, so all must ask
    if not session.accelerator.is_main_process or session.result is None:
        return
    model, own = session.accelerator.unwrap_model(session.model), session.method.own_tensors(weights)
    for name, source in model.all_tied_weights_keys.items():  # sharded ones come as if they were two
        if source in own:
            own.pop(name, None)
    with Scratch(output, session.method.record, force=True) as target, quiet_transformers():
        with plain_errors(target.scratch):
            model.save_pretrained(target.scratch, state_dict=own)
            tokenizer.save_pretrained(target.scratch)
        session.method.write_record(target.scratch, session.result)
        target.publish()
