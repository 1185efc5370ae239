"""Earlier spellings of `audiodiff evaluate`, which still work with a warning."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import click

from audiodiff.cli.verbs import VerbGroup

_LOG = logging.getLogger(__name__)


class EvaluateGroup(VerbGroup):
    """The group; an earlier spelling, in which options chose between the commands, still works with a warning."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or the one that an earlier spelling means."""
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        words = _spelled_as_command(args)
        _LOG.warning("`audiodiff evaluate %s ...` is now `audiodiff evaluate %s ...`.", args[0], " ".join(words[:2]))
        return super().resolve_command(ctx, words)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave options of an earlier spelling to the command that it means."""
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in known:
            args = ["--", *args]
        return super().parse_args(ctx, args)


def _spelled_as_command(args: Sequence[str]) -> list[str]:
    """Return the command that an earlier spelling means, and its arguments."""
    words = [part for word in args for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if "--list" in words:
        return ["metrics", *(word for word in words if word != "--list")]
    if "--ratings" in words:
        return ["ratings", *(word for word in words if word != "--ratings")]
    for option, command in (("--table", "tables"), ("--train-classifier", "classifier")):
        if option in words:
            i = words.index(option)
            return [command, *words[i + 1 : i + 2], *words[:i], *words[i + 2 :]]
    if all(word.endswith(".json") for word in words):
        return ["show", *words]
    return ["sets" if {"--classifier", "--frechet", "--music"} & {*words} else "pairs", *words]
