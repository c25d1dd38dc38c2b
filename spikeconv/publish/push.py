"""Uploads a checkpoint to the model hub: what `convert` wrote, checked first, without what tells of this machine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from spikeconv.checkpoint.card import CARD, public_command
from spikeconv.checkpoint.folder import read_record
from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.journal import JOURNAL
from spikeconv.checkpoint.origin import source_name
from spikeconv.checkpoint.scratch import SCRATCH
from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.progress import Track, silent
from spikeconv.publish.card import renewed_card
from spikeconv.sources.companions import WEIGHTS
from spikeconv.sources.own_card import card_values
from spikeconv.verification.check import check_files

__all__ = ["Parcel", "Upload", "pack", "public_record", "upload"]

LEFT_OUT = ("eval", "record")
"""Folders of results: the card has what they say."""


@dataclass(frozen=True)
class Upload:
    """One file: where it lies, or what it holds."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


@dataclass(frozen=True)
class Parcel:
    """What is uploaded.

    Attributes:
        files: all, by name.
        left_out: names in the folder that are not.
        licence: of the model; None where the card names none.
        card_is_edited: whether somebody wrote in the card, which is then not renewed.
    """

    files: tuple[Upload, ...]
    left_out: tuple[str, ...]
    licence: str | None
    card_is_edited: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


def pack(path: Path, repository: str, track: Track = silent) -> Parcel:
    """What would be uploaded of a checkpoint, after every byte of its weights was checked.

    Args:
        path: its folder.
        repository: owner/name.
        track: progress display.

    Raises:
        SpikeconvError: it is damaged or unfinished, or holds links that lead out of it.
    """
    if (path / JOURNAL).exists() or path.absolute().name.endswith(SCRATCH):
        raise SpikeconvError(f"{path} is not finished: run its `spikeconv convert` again, which goes on with it.")
    result = check_files(path, track)
    if not result.clean:
        first = result.damages[0]
        where = first.file if first.tensor is None else f"{first.file}: {first.tensor}"
        raise SpikeconvError(
            f"{path} is damaged: {where} {first.what} ({len(result.damages)} in all); `spikeconv check --repair` makes "
            "it again."
        )
    card = renewed_card(path, repository)
    written = {
        CARD: card.text.encode(),
        RECORD: (json.dumps(public_record(read_record(path)), indent=2) + "\n").encode(),
    }
    files, left_out = [], []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.name in LEFT_OUT:
            left_out.append(entry.name)
            continue
        for file in sorted(_files(entry, path.resolve())):
            name = file.relative_to(path).as_posix()
            if name not in written:
                files.append(Upload(name, file))
    files += [Upload(name, content) for name, content in written.items()]
    return Parcel(
        tuple(sorted(files, key=lambda file: file.name)),
        tuple(left_out),
        card_values(card.text).get("license"),
        card.is_edited,
    )


def upload(
    parcel: Parcel, repository: str, *, private: bool = False, revision: str | None = None, message: str = ""
) -> str:
    """Upload everything in one commit, into a repository that is made if there is none; returns its address.

    Weights that lie there and are not among these go in the same commit: a loader might read them instead.

    Args:
        parcel: what.
        repository: owner/name.
        private: whether nobody else may see it; one that is public already is refused.
        revision: branch, made if there is none.
        message: of the commit.

    Raises:
        SpikeconvError: nobody is logged in, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise SpikeconvError("Nobody is logged in at the model hub: run `hf auth login`, with a token that may write.")
    api = HfApi()
    with _plain_errors(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise SpikeconvError(
                f"{repository} is public already; leave --private out, or make it private on its page."
            )
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        names = {file.name for file in parcel.files}
        there = api.list_repo_files(repository, revision=revision)
        stale = [name for name in there if WEIGHTS.fullmatch(name) and name not in names]
        operations: list[Any] = [CommitOperationAdd(file.name, file.content) for file in parcel.files]
        operations += [CommitOperationDelete(name) for name in stale]
        found = api.create_commit(repository, operations, commit_message=message, revision=revision)
    return str(found.commit_url)


def public_record(record: dict[str, Any]) -> dict[str, Any]:
    """A record without paths of this machine: last names, or the ids of models of the hub."""
    source = record["source"]
    path = source["path"]
    result = {name: _without_paths(value) for name, value in record.items() if name not in ("source", "command")}
    return {
        "command": public_command(str(record.get("command", "")), path),
        **result,
        "source": {**source, "path": None if path is None else source_name(path)},
    }


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    is_path = isinstance(value, str) and PurePath(value).is_absolute()
    return PurePath(value).name if is_path else value


def _files(entry: Path, root: Path) -> Iterator[Path]:
    """Regular files, without what is hidden."""
    if not entry.resolve().is_relative_to(root):
        raise SpikeconvError(f"{entry} is a link that leads out of the checkpoint; put the file itself there.")
    if entry.is_dir():
        for each in entry.iterdir():
            if not each.name.startswith("."):
                yield from _files(each, root)
    elif entry.is_file():
        yield entry


@contextmanager
def _plain_errors(repository: str) -> Iterator[None]:
    """The client's errors as one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except SpikeconvError:
        raise
    except HFValidationError as error:
        raise SpikeconvError(f"{repository} is no name of a repository: {error}") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise SpikeconvError(
                f"The hub does not let you write to {repository}: log in with `hf auth login`, with a token that may "
                "write there."
            ) from None
        raise SpikeconvError(f"The hub refused {repository}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # the client's network errors share no base class
        raise SpikeconvError(
            f"The upload to the model hub failed ({reason_of(error)}); nothing was published."
        ) from None
