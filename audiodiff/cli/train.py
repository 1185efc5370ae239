"""`audiodiff train`: train a model as a YAML file describes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from audiodiff.config import RunConfig


@click.command("train")
@click.argument("conf", metavar="CONF.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--run",
    "run_dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run: checkpoints, curves, the best model.  [default: exp/CONF]",
)
@click.option(
    "--resume",
    metavar="auto|never|PATH",
    default="auto",
    show_default=True,
    help="auto goes on from the newest checkpoint in the run's folder, if there is one; never refuses a folder that "
    "has some; PATH is a checkpoint or another run to go on from.",
)
@click.option(
    "--data",
    metavar="FOLDER|MANIFEST",
    type=click.Path(exists=True),
    help="Recordings to train on, instead of data.train of the file.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one value of the file, for example training.steps=20000. May be repeated.",
)
def command(conf: Path, run_dir: Path | None, resume: str, data: str | None, settings: tuple[str, ...]) -> None:
    """Train a model as CONF.yaml describes it, or go on training it.

    SIGTERM and Ctrl-C save a checkpoint first. The same command goes on from there.
    """
    import signal

    from audiodiff.training.trainer import train

    config = _read(conf, [*settings, *([f"data.train={data}"] if data else [])])
    run_dir = run_dir or Path("exp") / conf.stem
    outcome = train(config, run_dir, resume)
    if math.isfinite(outcome.best_loss):
        best = f"{run_dir / 'best'}: validation loss {outcome.best_loss:.4f} at step {outcome.best_step}"
        click.echo(best)
    click.echo(f"{run_dir / 'last'}: step {outcome.step} of {config.training.steps}, {outcome.skipped} skipped")
    if outcome.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def _read(path: Path, settings: list[str]) -> RunConfig:
    import yaml

    from audiodiff.config import RunConfig, parse_config
    from audiodiff.errors import ConfigError

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no mapping with the keys model, data and training.")
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise click.BadParameter(f"{setting!r} is not KEY=VALUE", param_hint="--set")
        try:
            value = text if name == "data.train" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"{setting!r} has no value that YAML understands", param_hint="--set") from error
        _put(values, name, value)
    return parse_config(RunConfig, values, str(path))


def _put(values: dict[str, Any], name: str, value: object) -> None:
    """Set a dotted key in nested mappings."""
    from audiodiff.errors import ConfigError

    *parents, last = name.split(".")
    for i, parent in enumerate(parents):
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            outer = ".".join(parents[: i + 1])
            raise ConfigError(f"--set {name}: {outer} is {inner!r}, which has no parts. Set {outer} itself.")
        values = inner
    values[last] = value
