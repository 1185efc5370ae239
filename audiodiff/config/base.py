"""What every part of the configuration shares: strictness, errors that name the key, and keys that were renamed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Set
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from audiodiff.choices import shown
from audiodiff.errors import ConfigError

_LOG = logging.getLogger(__name__)


class Config(BaseModel):
    """Base of all parts: unknown keys are refused, values cannot change after validation.

    Files with renamed keys or values are read for one more version, with a warning. A class lists them in its tables:

        RENAMED_KEYS: ClassVar = {"average_decay": "ema_decay"}  # old key: new key
        RENAMED_VALUES: ClassVar = {"kind": {"frames": "stft"}}  # key, by its new name: {old value: new value}
        REMOVED_KEYS: ClassVar = {"learned"}  # ignored where they hold nothing, else refused as any unknown key
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {}
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    REMOVED_KEYS: ClassVar[Set[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def read_old_keys(cls, values: Any) -> Any:
        """Bring plain values of an older version to today's keys; whatever is no mapping passes.

        A `mode="before"` validator of a subclass runs before this one, so it calls it first if it looks at keys.
        """
        if not isinstance(values, Mapping):
            return values
        values = {key: value for key, value in values.items() if key not in cls.REMOVED_KEYS or value}
        for old, new in cls.RENAMED_KEYS.items():
            if old not in values:
                continue
            if new in values:
                raise ValueError(f"{old} is the old name of {new}; leave it out")
            _LOG.warning("configuration key %s was renamed; write %s", old, new)
            values = {new if key == old else key: value for key, value in values.items()}
        for key, renamed in cls.RENAMED_VALUES.items():
            old_value = values.get(key)
            if isinstance(old_value, str) and old_value in renamed:
                _LOG.warning("configuration value %s: %s was renamed; write %s", key, old_value, renamed[old_value])
                values[key] = renamed[old_value]
        return values


ConfigT = TypeVar("ConfigT", bound=Config)


def problems(error: ValidationError) -> list[str]:
    """Return what is wrong with each key, and the value it has."""
    found = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"].removeprefix("Value error, ").replace(" for <class 'pathlib.Path'>", "")
        if item["type"] == "string_type" and isinstance(item["input"], bool | int | float | None):
            message += f", not {shown(item['input'])}; write it in quotes"
        elif item["type"] not in ("value_error", "missing"):
            message += f", not {shown(item['input'])}"
        found.append(f"{where}: {message}")
    return found


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
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n  ".join([f"{source} is not a valid configuration:", *problems(error)])) from error


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
