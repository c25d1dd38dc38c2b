"""The folder of a fine-tune beside its output: settings, log, and the state to go on from.

OUTPUT.training/settings.json   what two runs must agree on to be one
OUTPUT.training/log.jsonl       one line a logged step
OUTPUT.training/state/          weights, optimizer, random numbers, thresholds; replaced whole
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from spikeconv.checkpoint.exchange import exchange
from spikeconv.errors import SpikeconvError
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.untrusted import read_bounded

__all__ = ["RunFolder"]


MOST_LOG = 1 << 30
"""Bytes."""


class RunFolder:
    """Reads and writes the folder of one fine-tune."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.training")
        self.state = self.path / "state"
        self.scratch = self.path / "state.incomplete"
        self.log_file = self.path / "log.jsonl"
        self._old_state = self.path / "state.old"
        self._settings = self.path / "settings.json"

    def begin(self, settings: FinetuneSettings, *, force: bool) -> None:
        """Start a fine-tune; one that was stopped before its first state has left nothing to go on from.

        Raises:
            SpikeconvError: there is one already and `force` is not set.
        """
        if (self.state.is_dir() or self._old_state.is_dir()) and not force:
            raise SpikeconvError(f"{self.path} holds a fine-tune; --resume goes on with it, --force starts anew.")
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self._settings.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def check(self, settings: FinetuneSettings) -> None:
        """See whether one can go on with these settings.

        Raises:
            SpikeconvError: there is nothing to resume, or it is damaged, or it has other settings.
        """
        if self._old_state.is_dir() and not self.state.is_dir():  # a crash between the renames of `keep_state`
            self._old_state.rename(self.state)
        if not self._settings.is_file() or not self.state.is_dir():
            raise SpikeconvError(f"There is nothing to resume in {self.path}; leave out --resume to start.")
        try:
            old = FinetuneSettings.model_validate_json(self._settings.read_text(encoding="utf-8"))
        except ValueError:
            raise SpikeconvError(f"{self._settings} is damaged; --force starts anew.") from None
        if found := old.differences(settings):
            raise SpikeconvError(f"{self.path} was made with other settings: {'; '.join(found)}.")

    def clear_scratch(self) -> None:
        """Make room for a new state."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def keep_state(self) -> None:
        """What is in `scratch` becomes the state; a crash leaves this one or the one before."""
        if not self.state.exists():
            self.scratch.rename(self.state)
        elif exchange(self.scratch, self.state):
            self.clear_scratch()
        else:
            shutil.rmtree(self._old_state, ignore_errors=True)
            self.state.rename(self._old_state)
            self.scratch.rename(self.state)
            shutil.rmtree(self._old_state, ignore_errors=True)

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + os.linesep)

    def entries(self) -> list[dict[str, Any]]:
        """The lines of the log; one that was cut off when a run was killed is none.

        Raises:
            SpikeconvError: another line is damaged.
        """
        if not self.log_file.is_file():
            return []
        lines = read_bounded(self.log_file, MOST_LOG).decode(errors="replace").splitlines()
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                entries.append({**entry, "step": int(entry["step"])})
            except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
                if number < len(lines):
                    raise SpikeconvError(f"{self.log_file} is damaged in line {number}; --force starts anew.") from None
        return entries

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that are not in the state that the run goes on from."""
        lines = [json.dumps(entry) + os.linesep for entry in self.entries() if entry["step"] <= step]
        self.log_file.write_text("".join(lines), encoding="utf-8")
