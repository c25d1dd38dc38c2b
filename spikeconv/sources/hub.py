"""Models of the Hugging Face hub: what is asked of it, and what its errors mean."""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spikeconv.errors import SpikeconvError, UnreadableError
from spikeconv.sources.weight_files import INDEX, SINGLE

__all__ = ["HubModel", "cached_snapshot", "fetch_from_hub", "look_up"]

WEIGHTS = "*.safetensors"
COMPANIONS = ("*.json", "*.model", "*.txt", "*.jinja", "*.py", "README.md", "LICENSE*")
PICKLED = ("pytorch_model*.bin",)
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What is wrong with the cache's disk, and not with the hub."""
OTHERS = (
    "Or give a local directory, GGUF or .pth file, or take the embedded model, which needs no hub: `spikeconv convert` "
    "alone."
)
"""What there is without this model of the hub."""
TIMEOUT = 5.0
"""Seconds for the one request that tells whether a hub model can be had."""
T = TypeVar("T")


@dataclass(frozen=True)
class HubModel:
    """A model of the hub, of which everything but its weights is here.

    Attributes:
        id: owner/name.
        folder: its snapshot in the hub's cache; the last part is the commit.
        states: of its safetensors files, by name, what `Source.states` says of them.
    """

    id: str
    folder: Path
    states: dict[str, dict[str, Any]]

    def header(self, file: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype (in safetensors' words) of the tensors in a file, by name; only its header is fetched.

        Raises:
            SpikeconvError: the file cannot be had or read.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import SafetensorsParsingError

        with _plain_errors(self.id):
            try:
                found = HfApi().parse_safetensors_file_metadata(self.id, file, revision=self.folder.name)
            except SafetensorsParsingError as error:
                raise SpikeconvError(f"{self.id}: {file} is no readable safetensors file: {error}") from None
        return {name: (tuple(info.shape), str(info.dtype)) for name, info in found.tensors.items()}

    def fetch(self, file: str) -> Path:
        """Where a file lies when it has been downloaded; an interrupted download goes on.

        Raises:
            UnreadableError: it cannot be had now, whatever the reason: another time it may.
        """
        from huggingface_hub import hf_hub_download

        try:
            with _plain_errors(self.id), _without_bars():
                return Path(hf_hub_download(self.id, file, revision=self.folder.name))
        except SpikeconvError as error:
            raise UnreadableError(f"{file} could not be fetched: {error}") from None


def look_up(model_id: str) -> HubModel | Path:
    """A model of the hub whose weights can come file by file, or the folder of one that is here.

    Raises:
        SpikeconvError: as `fetch_from_hub`.
    """
    return _or_cached(model_id, partial(_look_up, model_id))


def fetch_from_hub(model_id: str, only: tuple[str, ...] | None = None) -> Path:
    """The local snapshot of a hub model, or of these files of it; one quick request decides whether it can be had.

    Raises:
        SpikeconvError: the model is gated or does not exist, or the hub cannot be reached and no copy is cached.
    """

    def fetch() -> Path:
        files = _files(model_id)[1]
        return _snapshot(model_id, only or (WEIGHTS, *COMPANIONS, *(() if _has_safetensors(files) else PICKLED)))

    return _or_cached(model_id, fetch)


def _or_cached(model_id: str, fetch: Callable[[], T]) -> T | Path:
    """What the hub gives; if it cannot be reached, what is cached."""
    try:
        with _plain_errors(model_id):
            return fetch()
    except _AwayError:
        if (cached := cached_snapshot(model_id)) is None:
            raise
        return cached


def _look_up(model_id: str) -> HubModel | Path:
    commit, files = _files(model_id, files_metadata=True)
    if not _has_safetensors(files):
        return _snapshot(model_id, (*COMPANIONS, *PICKLED))
    folder = _snapshot(model_id, COMPANIONS)
    if commit != folder.name:
        raise SpikeconvError(f"{model_id} changed on the hub just now; run the same command again.")
    states = {
        name: {"bytes": file.size, "blob": file.lfs.sha256 if file.lfs else file.blob_id}
        for name, file in files.items()
        if Path(name).match(WEIGHTS)
    }
    return HubModel(model_id, folder, states)


def _files(model_id: str, **options: Any) -> tuple[str | None, dict[str, Any]]:
    """The commit of a model, and what the hub says of its files, by name."""
    from huggingface_hub import HfApi

    found = HfApi().model_info(model_id, timeout=TIMEOUT, **options)
    return found.sha, {file.rfilename: file for file in found.siblings or ()}


def _has_safetensors(files: Collection[str]) -> bool:
    return SINGLE in files or INDEX in files


def _snapshot(model_id: str, patterns: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model_id, allow_patterns=list(patterns)))


def cached_snapshot(model_id: str) -> Path | None:
    """What an earlier run fetched of a hub model, if anything."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        patterns = [WEIGHTS, *COMPANIONS, *PICKLED]
        return Path(snapshot_download(model_id, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


class _AwayError(UnreadableError):
    """The hub cannot be reached."""


@contextmanager
def _plain_errors(model_id: str) -> Iterator[None]:
    """The client's errors as one sentence."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except SpikeconvError:
        raise
    except GatedRepoError:
        raise SpikeconvError(
            f"{model_id} is gated: accept its licence on its page on the hub, then log in with `hf auth login`. "
            f"{OTHERS}"
        ) from None
    except RepositoryNotFoundError:
        raise SpikeconvError(
            f"The hub has no model {model_id} (or it is private; log in with `hf auth login`). {OTHERS}"
        ) from None
    except HfHubHTTPError as error:
        raise SpikeconvError(f"The hub refused {model_id}: {str(error).splitlines()[0]}. {OTHERS}") from None
    except Exception as error:  # the client's network errors share no base class
        if isinstance(error, OSError) and error.errno in DISK:
            raise UnreadableError(f"{model_id} cannot be fetched: {error}") from None
        raise _AwayError(
            f"The model hub cannot be reached ({type(error).__name__}) and {model_id} is not cached here; fetch it "
            f"where there is a connection (`hf auth login` if it is gated). {OTHERS}"
        ) from None


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the client's own progress bars, which would scroll ours away."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
