"""What every part of the configuration shares: strictness, and errors that name the key."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from audiodiff.errors import ConfigError


class Config(BaseModel):
    """Base of all parts: unknown keys are refused, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ConfigT = TypeVar("ConfigT", bound=Config)


def _explain(error: ValidationError, source: str) -> ConfigError:
    lines = [f"{source} is not a valid configuration:"]
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "(top level)"
        lines.append(f"  {where}: {item['msg'].removeprefix('Value error, ')}")
    return ConfigError("\n".join(lines))


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
        raise _explain(error, source) from error


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
