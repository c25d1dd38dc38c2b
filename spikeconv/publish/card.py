"""Renews the model card of a checkpoint, unless somebody has edited it."""

from dataclasses import dataclass
from pathlib import Path

from spikeconv.checkpoint.card import CARD, is_ours, model_card
from spikeconv.checkpoint.folder import read_record
from spikeconv.comparison.columns import gather
from spikeconv.comparison.subjects import Subject
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family
from spikeconv.publish.measured import measured_section
from spikeconv.report.profiles import USUAL, EnergyProfile
from spikeconv.sources.json_file import read_json
from spikeconv.sources.presets import energy_constants
from spikeconv.untrusted import read_bounded

__all__ = ["Card", "renewed_card"]

MOST_CARD = 1 << 24


@dataclass(frozen=True)
class Card:
    """A card's text, and whether somebody edited it: then it is as it was."""

    text: str
    is_edited: bool


def renewed_card(path: Path, repository: str | None = None) -> Card:
    """The card of a checkpoint with all that is known of it by now; nothing is written.

    Args:
        path: its folder.
        repository: where it will be loaded from; None: by its name.

    Raises:
        SpikeconvError: its record or what was recorded of it is damaged, or its card is not readable.
    """
    record, config = read_record(path), read_json(path / "config.json")
    try:
        found = read_bounded(path / CARD, MOST_CARD).decode("utf-8")
    except FileNotFoundError:
        found = None
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeconvError(f"{path / CARD} cannot be read: {error}.") from None
    if found is not None and not is_ours(found):
        return Card(found, True)
    profiles = {name: EnergyProfile.parse(energy_constants(name)) for name in USUAL}
    measured = measured_section(gather(Subject(path.name, str(path), "checkpoint")), profiles)
    auto = find_family(config).auto_name(config.get("architectures"))
    name = repository.rpartition("/")[2] if repository else path.absolute().name
    return Card(model_card(name, record, auto, measured, repository or ""), False)
