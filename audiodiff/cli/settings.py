"""The option `--set KEY=VALUE`, by which verbs let any value of a configuration be changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_settings(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, object]:
    """Turn KEY=VALUE words into dotted keys and YAML values.

    Raises:
        click.BadParameter: If a word is not of that form.
    """
    import yaml

    settings: dict[str, object] = {}
    for word in values:
        name, equals, text = word.partition("=")
        if not equals:
            raise click.BadParameter(f"{word!r} is not KEY=VALUE")
        try:
            settings[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"{word!r} has no value that YAML understands") from error
    return settings


def settings_option(example: str) -> Callable[[Command], Command]:
    """Return the decorator that adds the option; its help gives an example of a setting."""
    return click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        callback=parse_settings,
        help=f"Change one value of the configuration, for example {example}. May be repeated.",
    )
