"""Every number of a configuration is finite and bounded; what is not is refused by a message that says the bounds."""

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

import audiodiff.config.run  # noqa: F401  (defines the last of the classes)
from audiodiff.choices import Number
from audiodiff.config import ModelConfig, SynthesisConfig, TrainingConfig, load_run_config, parse_config
from audiodiff.config.base import Config
from audiodiff.errors import ConfigError


def classes(base: type[Config] = Config) -> Iterator[type[Config]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("audiodiff.config"):
            yield kind
            yield from classes(kind)


def numbers(annotation: Any) -> Iterator[Number | type]:
    """Yield the bounds of each number within a type, or the type where it has none."""
    if annotation in (int, float):
        yield annotation
    elif get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        bounds = [note for note in notes if isinstance(note, Number)]
        yield from bounds or numbers(inner)
    else:
        for inner in get_args(annotation):
            if inner not in (NoneType, Ellipsis):
                yield from numbers(inner)


FIELDS = [
    pytest.param(kind, name, annotation, id=f"{kind.__name__}.{name}")
    for kind in classes()
    for name, annotation in get_type_hints(kind, include_extras=True).items()
    if name in kind.model_fields and list(numbers(annotation))
]


def test_the_walk_finds_the_fields():
    assert len(FIELDS) > 80
    assert {case.values[0].__name__ for case in FIELDS} >= {
        "MelConfig",
        "NetworkConfig",
        "DataConfig",
        "TrainingConfig",
    }


@pytest.mark.parametrize(("kind", "name", "annotation"), FIELDS)
def test_every_number_is_bounded(kind, name, annotation):
    for number in numbers(annotation):
        assert isinstance(number, Number), "write Annotated[int, Number(int, low=..., high=...)]"
        assert number.is_bounded
        assert number.kind.__name__ in str(annotation)


NO_NUMBERS = (float("nan"), float("inf"), -float("inf"), "nan", 1e300, -1e300, 10**400, True, "1e999")


@pytest.mark.parametrize(("kind", "name", "annotation"), FIELDS)
def test_what_is_no_number_within_the_bounds_is_refused(kind, name, annotation):
    for value in NO_NUMBERS:
        with pytest.raises(ConfigError) as error:
            parse_config(kind, {name: [value] * 2 if "tuple" in str(annotation) else value}, "it")
        line = next(line for line in str(error.value).splitlines() if line.startswith(f"  {name}"))
        assert "number" in line
        assert len(line) < 150


@pytest.mark.parametrize("value", [3, "3", 3.0, np.int64(3), np.float32(3), torch.tensor(3)])
def test_numbers_of_every_origin_are_taken(value):
    settings = parse_config(SynthesisConfig, {"steps": value, "guidance": value}, "it")
    assert (settings.steps, settings.guidance) == (3, 3.0)
    assert (type(settings.steps), type(settings.guidance)) == (int, float)


def test_yaml_without_a_dot_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-4 as text."""
    path = tmp_path / "run.yaml"
    path.write_text("model: {sample_rate: 16000}\ndata: {train: clips}\ntraining: {learning_rate: 1e-4}\n")
    assert load_run_config(path).training.learning_rate == 1e-4
    path.write_text("model: {sample_rate: 16000}\ndata: {train: clips}\ntraining: {learning_rate: .nan}\n")
    with pytest.raises(ConfigError, match="training.learning_rate: nan is not a number above 0 and at most 1"):
        load_run_config(path)


def test_the_message_repeats_what_came():
    with pytest.raises(ConfigError, match="steps: 2000000000 is not a whole number from 1 to 1,000,000,000"):
        parse_config(TrainingConfig, {"steps": 2 * 10**9}, "it")
    with pytest.raises(ConfigError, match=r"sample_rate: 22050.5 is not a whole number from 1 to 768,000 \(Hz\)"):
        parse_config(ModelConfig, {"sample_rate": 22050.5}, "it")
