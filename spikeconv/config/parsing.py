"""Settings from untrusted values (command line, YAML, `config.json`), and what is wrong with them in one sentence."""

from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from spikeconv.config.base import Settings, shown
from spikeconv.config.inputs import INPUTS
from spikeconv.errors import SpikeconvError
from spikeconv.suggest import did_you_mean

__all__ = ["Options", "known_paths", "parse_settings", "sentence"]

Model = TypeVar("Model", bound=BaseModel)


def parse_settings(settings: type[Model], values: Any, name: str = "") -> Model:
    """Settings of a kind from untrusted values; `name` is where they stand in a whole.

    Raises:
        SpikeconvError: one sentence that names the setting.
    """
    try:
        return settings.model_validate(values)
    except ValueError as error:
        raise SpikeconvError(f"{name}.{sentence(error, settings)}" if name else sentence(error, settings)) from None


class Options(Settings):
    """Options of a command beside the settings that a checkpoint keeps."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build from untrusted values; None means not given.

        Raises:
            SpikeconvError: one sentence that names the setting.
        """
        return parse_settings(cls, {name: value for name, value in values.items() if value is not None})


def sentence(error: ValueError, settings: type[BaseModel]) -> str:
    """What is wrong first with settings of a kind, in one line: `setting: message`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    codec = where.pop(1) if where[:1] == ["inputs"] and len(where) > 1 and where[1] in INPUTS else None
    if first["type"] == "extra_forbidden":
        return _unknown(".".join(where), codec, settings)
    message = _message(first["type"], first["msg"], first["input"], first.get("ctx", {}))
    if first["type"] == "union_tag_invalid":
        where.append("codec")
    return f"{'.'.join(where)}: {message}" if where else message


def known_paths(settings: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted paths of all settings of a kind, those of every codec included."""
    paths = []
    for name, field in settings.model_fields.items():
        parts = INPUTS.values() if name == "inputs" else _models(field.annotation)
        below = [path for part in parts for path in known_paths(part, f"{prefix}{name}.")]
        paths += below or [prefix + name]
    return list(dict.fromkeys(paths))


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]


def _unknown(where: str, codec: str | None, settings: type[BaseModel]) -> str:
    key = where.rsplit(".", 1)[-1]
    if codec is not None and where == f"inputs.{key}":
        owners = [name for name, model in INPUTS.items() if key in model.model_fields]
        if owners:
            listed = " or ".join(filter(None, (", ".join(owners[:-1]), owners[-1])))
            return f"{where} belongs to codec={listed}, not {codec}"
    known = known_paths(settings)
    path = ".".join(part for part in where.split(".") if not part.isdecimal())
    level = f"{path.rsplit('.', 1)[0]}." if "." in path else ""
    if level == "inputs." and codec is not None:
        near = [f"inputs.{name}" for name in INPUTS[codec].model_fields]
    else:
        near = [path for path in known if path.startswith(level)]
    short = getattr(settings, "short_names", ()) if not level else ()
    listed = ", ".join([*near, *short])
    hint = did_you_mean(path, [*known, *short]) or did_you_mean(key, [*near, *short])
    return f"{where} is no setting.{hint} (known: {listed})"


def _message(kind: str, message: str, value: Any, context: Mapping[str, Any]) -> str:
    found = shown(value)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        tag = str(context["tag"])
        return f"must be one of {', '.join(INPUTS)}, not {tag[:40]!r}.{did_you_mean(tag, INPUTS)}"
    if kind == "literal_error":
        known = [name.strip("'") for name in context["expected"].replace(" or ", ", ").split(", ")]
        hint = did_you_mean(found.strip("'"), known)
        return f"must be one of {', '.join(known)}, not {found}.{hint}"
    return f"{message[0].lower()}{message[1:]}, not {found}".replace("input should be", "must be")
