"""Other settings for some linears."""

from fnmatch import fnmatchcase
from typing import Any

from pydantic import field_validator

from spikeconv.config.base import Settings
from spikeconv.config.paths import nest

__all__ = ["Override", "matches"]


class Override(Settings):
    """Other settings for the linears whose name matches `pattern` (shell wildcards) or whose role equals it."""

    pattern: str
    settings: dict[str, Any]

    @field_validator("settings", mode="before")
    @classmethod
    def _nested(cls, settings: Any) -> Any:
        return nest(settings) if isinstance(settings, dict) else settings


def matches(pattern: str, name: str, role: str) -> bool:
    """Whether a pattern means the linear of that name and role."""
    return pattern == role or fnmatchcase(name, pattern)
