"""Every number that the command line takes is finite and bounded, and is refused by a message that says the bounds."""

import importlib
import pkgutil
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import recipes
from audiodiff.choices import FilePath, Number, Numbers
from audiodiff.cli.main import main
from recipes._cli import command as recipe_command

CLICKS_OWN = (click.types.IntParamType, click.types.FloatParamType)
NUMERIC_METAVARS = {"N", "SECONDS", "FRACTION", "HZ", "SCALE", "LOG_SNR", "RATIO", "MS", "CLIPS", "FACTOR", "MINUTES"}


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, (*words, name))


def recipe_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for found in pkgutil.iter_modules(recipes.__path__):
        module = importlib.import_module(f"recipes.{found.name}")
        recipe = getattr(module, "RECIPE", None)
        if recipe is not None:
            yield ("recipes", found.name), recipe_command(recipe, "help")


PARAMETERS = [
    pytest.param(words, command, parameter, id=" ".join((*words, parameter.opts[0])))
    for words, command in (*commands(main), *recipe_commands())
    for parameter in command.params
]


def own_types(kind: click.ParamType) -> tuple[click.ParamType, ...]:
    return tuple(kind.types) if isinstance(kind, click.Tuple) else (kind,)


NUMERIC = [
    pytest.param(*case.values, id=case.id)
    for case in PARAMETERS
    if any(isinstance(kind, Number | Numbers) for kind in own_types(case.values[2].type))
]


@pytest.mark.parametrize(("words", "command", "parameter"), PARAMETERS)
def test_there_is_one_type_of_number(words, command, parameter):
    for kind in own_types(parameter.type):
        assert not isinstance(kind, CLICKS_OWN), "use audiodiff.choices.Number"
        if isinstance(kind, click.types.FuncParamType) or parameter.metavar in NUMERIC_METAVARS:
            assert isinstance(kind, Number | Numbers)
        for number in kind.kinds if isinstance(kind, Numbers) else [kind]:
            assert not isinstance(number, Number) or number.is_bounded


def test_the_walk_finds_the_numbers():
    assert len(NUMERIC) > 70
    assert {case.values[0][0] for case in NUMERIC} >= {"vocode", "train", "bench", "convert", "recipes"}


NO_NUMBERS = ("nan", "inf", "-inf", "1e999", "9" * 5000, "-" + "9" * 400, "", "one", "1e308", "0x10")


@pytest.mark.parametrize(("words", "command", "parameter"), NUMERIC)
def test_what_is_no_number_within_the_bounds_is_refused(words, command, parameter):
    n = parameter.nargs
    for text in NO_NUMBERS:
        with pytest.raises(click.BadParameter) as error:
            parameter.type_cast_value(
                click.Context(command), text if n == 1 and not parameter.multiple else (text,) * n
            )
        message = error.value.message
        assert "number" in message or "is not like" in message
        assert len(message) < 250
        assert text[:10] in message


def test_a_message_says_what_came_and_the_bounds():
    result = CliRunner().invoke(main, ["vocode", "in.wav", "-o", "out", "--steps", "1000000000"])
    assert result.exit_code == 2
    assert "Invalid value for '--steps': '1000000000' is not a whole number from 1 to 10,000 (steps)." in result.output


@pytest.mark.parametrize(
    ("number", "value", "expected"),
    [
        (Number(int, low=1, high=10), "10", 10),
        (Number(int, low=1, high=10), 3.0, 3),
        (Number(float, above=0, high=1), "1e-3", 0.001),
        (Number(float, low=0, below=1), 0, 0.0),
        (Number(float, low=0, below=1, words=("auto",)), "auto", "auto"),
    ],
)
def test_numbers_within_the_bounds(number, value, expected):
    assert number.parse(value) == expected
    assert type(number.parse(value)) is type(expected)


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (Number(int, low=1, high=10), 11, "11 is not a whole number from 1 to 10"),
        (Number(int, low=1, high=10), True, "True is not a whole number"),
        (Number(int, low=1, high=10), 2.5, "2.5 is not a whole number"),
        (Number(int, low=1, high=10), 10**600, "a number of about 601 digits is not a whole number"),
        (Number(float, above=0, high=1), 0, "0 is not a number above 0 and at most 1"),
        (Number(float, low=0, below=1), 1, "1 is not a number from 0 and below 1"),
        (Number(float, above=0, below=1, unit="s"), "1_0", r"'1_0' is not a number above 0 and below 1 \(s\)"),
        (Number(float, low=0, high=1, words=("auto",)), "Auto", "'Auto' is not a number from 0 to 1, or auto"),
    ],
)
def test_numbers_beyond_the_bounds(number, value, message):
    with pytest.raises(ValueError, match=message):
        number.parse(value)


@pytest.mark.parametrize(("words", "command", "parameter"), PARAMETERS)
def test_there_is_one_type_of_path(words, command, parameter):
    assert not isinstance(parameter.type, click.Path) or isinstance(parameter.type, FilePath)
