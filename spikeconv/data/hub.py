"""Whether the model hub can be reached, and how to keep its clients from trying when it cannot."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hub_disabled", "hub_reachable", "hub_switched_off"]

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def hub_switched_off() -> bool:
    """Whether the user turned the hub off (HF_HUB_OFFLINE and its kin)."""
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in OFFLINE_VARIABLES)


def hub_reachable(timeout: float = 3.0) -> bool:
    """Whether the hub (HF_ENDPOINT) answers at all within `timeout` seconds; no if it is switched off."""
    if hub_switched_off():
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout).close()
        except urllib.error.HTTPError as error:
            if error.code >= 500 or error.code in (403, 407):  # a proxy's or gateway's refusal, not the hub
                return
        except (OSError, ValueError):
            return
        answered.set()

    # A thread, because looking up the name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


@contextmanager
def hub_disabled(disabled: bool = True) -> Iterator[None]:
    """Let Hugging Face's libraries use their local cache only (they read the environment once, at import)."""
    import datasets.config
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if disabled:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before
