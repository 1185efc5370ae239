"""Help: few options first, every one explained, units where there are any, and examples that are right."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from audiodiff.cli.main import VERBS, main
from audiodiff.cli.verbs import ExpertOption, GlobalOption, Verb

MOST = 7
"""Options before the expert ones."""
UNITS = {"seconds": "SECONDS", "minutes": "MINUTES", "milliseconds": "MS", "Hz": "HZ", "clips": "CLIPS"}
WITHOUT_EXAMPLES = {"evaluate classifier", "evaluate metrics", "evaluate show", "evaluate tables", "evaluate ratings"}


def leaves(name: str, command: click.Command | None) -> Iterator[tuple[str, Verb]]:
    """Yield the commands of a verb, its own or those within it."""
    if isinstance(command, click.Group):
        for part in command.commands:
            yield from leaves(f"{name} {part}", command.get_command(click.Context(command), part))
    else:
        assert isinstance(command, Verb)
        yield name, command


COMMANDS = dict(leaf for verb in VERBS for leaf in leaves(verb, main.get_command(click.Context(main), verb)))
OPTIONS = {
    f"{name} {option.opts[0]}": option
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.hidden and not isinstance(option, GlobalOption)
}


@pytest.mark.parametrize("name", COMMANDS)
def test_few_options_come_first(name):
    common = [
        option.opts[0]
        for option in COMMANDS[name].params
        if isinstance(option, click.Option)
        and not isinstance(option, ExpertOption | GlobalOption)
        and not option.hidden
    ]
    assert len(common) <= MOST, common


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_explained_and_says_what_it_takes(name):
    option = OPTIONS[name]
    assert option.help
    assert option.help.rstrip("]").endswith((".", ")")) or "  [default: " in option.help
    assert option.is_flag or option.metavar or isinstance(option.type, click.Choice)
    for kind in getattr(option.type, "kinds", (option.type,)):
        if metavar := UNITS.get(getattr(kind, "unit", "")):
            assert metavar in (option.metavar or "") or metavar.lower() in option.help


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_EXAMPLES))
def test_examples_end_the_help_and_name_options_that_there_are(name):
    if name.startswith("plot "):
        return
    examples = COMMANDS[name].examples
    assert any(example.startswith(f"audiodiff {name} ") or example == f"audiodiff {name}" for example in examples)
    for example in examples:
        program, *words = shlex.split(example)
        if program == "audiodiff":
            called = max((known for known in COMMANDS if " ".join(words).startswith(known)), key=len)
            known = {opt for option in COMMANDS[called].params for opt in option.opts}
            assert {word for word in words if word.startswith("-")} <= known
    shown = CliRunner().invoke(main, [*name.split(), "--help"]).output
    assert shown.rstrip().endswith("Examples:\n" + "\n".join(f"  {example}" for example in examples))
