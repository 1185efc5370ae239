"""What every part of the configuration shares: strictness, errors that name the key, and keys that were renamed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from audiodiff.choices import shown
from audiodiff.errors import ConfigError

_LOG = logging.getLogger(__name__)


class Config(BaseModel):
    """Base of all parts: unknown keys are refused, values cannot change after validation.

    Files with renamed keys or values are read for one more version, with a warning. A class lists them in its tables:

        RENAMED_KEYS: ClassVar = {"average_decay": "ema_decay"}  # old key: new key
        RENAMED_VALUES: ClassVar = {"kind": {"frames": "stft"}}  # key, by its new name: {old value: new value}
        REMOVED_KEYS: ClassVar = {"learned": "use distribution"}  # key: advice; ignored where it holds nothing

    A run that is resumed keeps all its settings, or says what changed; except, for what leaves the result as it is:

        MAY_CHANGE: ClassVar = {"workers"}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    MAY_CHANGE: ClassVar[Set[str]] = frozenset()

    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {}
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    REMOVED_KEYS: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def read_old_keys(cls, values: Any) -> Any:
        """Migrate deprecated keys and values; non-mappings are returned unchanged.

        A `mode="before"` validator of a subclass runs before this one, so it calls `migrate` first if it looks at keys.
        """
        if not isinstance(values, Mapping):
            return values
        values = cls.migrate(values)
        _check_text(values)
        for old, new in cls.RENAMED_KEYS.items():
            if old in values:
                raise ValueError(f"{old} is the old name of {new}; leave it out")
        return values

    @classmethod
    def migrate(cls, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Migrate deprecated keys and values of this part, with warnings; keys of which both names are given stay.

        Args:
            values: Plain values.
            where: What warnings put before a key: a file, and the parts that this one is in.
        """
        values = {key: value for key, value in values.items() if key not in cls.REMOVED_KEYS or value}
        for old, new in cls.RENAMED_KEYS.items():
            if old in values and new not in values:
                _LOG.warning("%s%s is deprecated; use %s", where, old, new)
                values = {new if key == old else key: value for key, value in values.items()}
        for key, renamed in cls.RENAMED_VALUES.items():
            old_value = values.get(key)
            if isinstance(old_value, str) and old_value in renamed:
                _LOG.warning("%s%s: %s is deprecated; use %s", where, key, old_value, renamed[old_value])
                values[key] = renamed[old_value]
        return values


def _check_text(value: Any, where: str = "") -> None:
    """Refuse text, in whatever part, that no file can hold.

    Raises:
        ValueError: If there is such text.
    """
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}{value[:40]!a} holds half a character (a surrogate), which no file can hold")
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_text(key, where)
            _check_text(part, f"{where}{key}: ")
    elif isinstance(value, list | tuple):
        for part in value:
            _check_text(part, where)


ConfigT = TypeVar("ConfigT", bound=Config)


def problems(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Return what is wrong with each key of an object of this class, and the value it has."""
    found = []
    for item in error.errors():
        where = ".".join(part for part in map(str, item["loc"]) if "[" not in part)  # a type of a union
        message = item["msg"].removeprefix("Value error, ").replace(" for <class 'pathlib.Path'>", "")
        if item["type"] == "extra_forbidden":
            message = _explain_unknown(kind, item["loc"])
        elif item["type"] == "string_type" and isinstance(item["input"], bool | int | float | None):
            message += f", not {shown(item['input'])}; write it in quotes"
        elif item["type"] not in ("value_error", "missing"):
            message += f", not {shown(item['input'])}"
        found.append(f"{where}: {message}" if where else message)
    return found


def _explain_unknown(kind: type[BaseModel], place: Sequence[str | int]) -> str:
    """Say of a key that its class does not have whether it was removed, or which key is nearest."""
    part: type[BaseModel] | None = kind
    *parents, key = map(str, place)
    for name in parents:
        if part is not None and name in part.model_fields:
            part = _part(part.model_fields[name].annotation)
    if part is None:
        return "unknown key"
    if issubclass(part, Config) and key in part.REMOVED_KEYS:
        return f"removed; {part.REMOVED_KEYS[key]}"
    nearest = get_close_matches(key, part.model_fields, 1)
    return f"unknown key; did you mean {nearest[0]}?" if nearest else "unknown key"


def _part(annotation: Any) -> type[Config] | None:
    """Return the class of a field that holds a configuration or several; None for any other field."""
    if get_origin(annotation) is dict:
        return None
    if choices := get_args(annotation):
        return next(filter(None, map(_part, choices)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Config) else None


def _migrated(kind: type[Config], values: Any, where: str) -> Any:
    """Migrate a configuration with all its parts, whose warnings name keys in full."""
    if isinstance(values, list | tuple):
        return [_migrated(kind, value, where) for value in values]
    if not isinstance(values, Mapping):
        return values
    migrated = kind.migrate(values, where)
    for name, field in kind.model_fields.items():
        part = _part(field.annotation)
        if part is not None and name in migrated:
            migrated[name] = _migrated(part, migrated[name], f"{where}{name}.")
    return migrated


def parse_config(kind: type[ConfigT], values: object, source: str) -> ConfigT:
    """Validate plain values against a configuration class.

    Args:
        kind: The configuration class, for example `ModelConfig`.
        values: A mapping as read from YAML or JSON.
        source: Where the values came from, for the message.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: If a key is unknown, or a value is missing, of the wrong type or contradictory.
    """
    try:
        return kind.model_validate(_migrated(kind, values, f"{source}: "))
    except ValidationError as error:
        raise ConfigError("\n  ".join([f"invalid configuration ({source}):", *problems(error, kind)])) from error


def change(values: dict[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Set dotted keys in nested mappings.

    Args:
        values: Plain values, as read from YAML or JSON; left as they are.
        changes: Dotted key to new value, for example `{"training.steps": 2000}`.

    Returns:
        The changed values.

    Raises:
        ConfigError: If a part of a key is a value without parts.
    """
    changed = copy.deepcopy(values)
    for name, value in changes.items():
        inner = changed
        *parents, last = name.split(".")
        for i, parent in enumerate(parents):
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                outer = ".".join(parents[: i + 1])
                raise ConfigError(f"{name}: {outer} is {inner!r}, which has no parts. Set {outer} itself.")
        inner[last] = value
    return changed


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys.

    Example:
        >>> flattened({"training": {"steps": 2000}, "data.train": "clips"})
        {'training.steps': 2000, 'data.train': 'clips'}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in flattened(value).items()}
        else:
            flat[name] = value
    return flat
