"""Checked input: the base of the frozen pydantic models, and in one line what they refuse."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from heimdall_lab.core.text import quoted, shortened

_LONGEST_NAME = 100  # characters that names are compared in, which takes the square of their number
NAME = r"^[A-Za-z0-9_-]+$"  # of what becomes a folder or a file


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the field, its value and the remedy."""


class CheckedModel(BaseModel):
    """Base of the configuration's models: frozen, without unknown fields, finite numbers only.

    Fields that came later have ``exclude_if`` for what changes nothing, so that datasets without them stay the same to
    the byte.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(message)

    def _require_order(self, lower: str, upper: str) -> None:
        low, high = getattr(self, lower), getattr(self, upper)
        self._require(low <= high, f"{lower} {low} exceeds {upper} {high}; swap them or widen the range")


def first_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Say in one line which field pydantic refused first, its value, and what is accepted.

    Where an unknown field is given, those of the validated model are listed.
    """
    return error_text(error.errors(include_url=False)[0], model)


def error_text(refused: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """Say one of the errors of ``ValidationError.errors`` as ``path: reason``, with the remedy."""
    path = shortened(".".join(str(part) for part in refused["loc"]))
    field = f"{path}: " if path else ""
    message = str(refused["msg"]).removeprefix("Value error, ")
    if refused["type"] == "extra_forbidden":
        if model is None:
            return f"{field}unknown field; leave it out"
        beside = _fields_beside(model, refused["loc"])
        meant = question(_meant_fields(model, refused["loc"], beside))
        return f"{field}unknown field; {meant}choose one of {', '.join(beside)}"
    if refused["type"] == "too_short":
        return f"{field}{len(refused['input'])} listed, at least {refused['ctx']['min_length']} are needed; add some"
    if refused["type"] == "missing":
        return f"{field}is missing; add it"
    if refused["type"] == "json_invalid":
        return f"{field}{shortened(message)}; correct it"
    if refused["type"] == "value_error":
        return f"{field}{message}"
    allowed = re.findall(r"'([^']+)'", refused["ctx"]["expected"]) if refused["type"] == "literal_error" else []
    meant = question(near(refused["input"], allowed)) if isinstance(refused["input"], str) else ""
    return f"{field}{quoted(refused['input'])} is refused: {message[:1].lower() + message[1:]}; {meant}change it"


def near(name: str, names: Iterable[str]) -> list[str]:
    """Those of some names that hold what was written as a word, or look like it: at most two, the nearest first.

    >>> near("rate", ["epochs", "learning_rate", "strategy"])
    ['learning_rate']
    """
    if len(name) > _LONGEST_NAME:
        return []
    known = list(names)
    holding = [each for each in known if name in each.split("_")]
    return holding[:2] or get_close_matches(name, known, n=2)


def question(names: list[str]) -> str:
    """Ask whether one of these was meant; nothing where there is none.

    >>> question(near("sgnal", ["signal", "channel"]))
    'did you mean signal? '
    """
    return f"did you mean {' or '.join(names)}? " if names else ""


def _meant_fields(model: type[BaseModel], location: tuple[int | str, ...], beside: list[str]) -> list[str]:
    """Dotted paths of what an unknown field may have been meant to be: the same name elsewhere, or one like it."""
    *group, name = map(str, location)
    paths = list(_paths(model))
    elsewhere = [path for path in paths if path.rpartition(".")[2] == name]
    here = [".".join([*group, field]) for field in near(name, beside)]
    return elsewhere[:2] or here or near(".".join([*group, name]), paths)


def _paths(model: type[BaseModel], group: str = "") -> Iterator[str]:
    """Yield the dotted paths of all fields, groups too."""
    for name, field in model.model_fields.items():
        yield f"{group}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths(field.annotation, f"{group}{name}.")


def _fields_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that an unknown field was given to."""
    for part in location[:-1]:
        if part in model.model_fields:
            annotation: Any = model.model_fields[str(part)].annotation
            kinds = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
            model = next((kind for kind in kinds if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
