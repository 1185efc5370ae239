"""`audiodiff train`: train a model as a YAML file describes it."""

from __future__ import annotations

import math
from pathlib import Path

import click

from audiodiff.cli.settings import settings_option


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
    metavar="FOLDER|MANIFEST|SHARDS",
    help="Recordings to train on, instead of data.train of the file.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Take three steps, print what the run needs (operations, memory, time, disk), and write nothing.",
)
@settings_option("training.steps=20000")
def command(
    *, conf: Path, run_dir: Path | None, resume: str, data: str | None, dry_run: bool, settings: dict[str, object]
) -> None:
    """Train a model as CONF.yaml describes it, or go on training it.

    SIGTERM and Ctrl-C save a checkpoint first. The same command goes on from there. A loss curve beside the file, named
    CONF.curve.json (the curve.json of another run's folder), is what validation is compared with. `accelerate launch -m
    audiodiff train ...` trains in several processes, on one machine or many.
    """
    import signal

    from audiodiff.config import load_run_config
    from audiodiff.training.trainer import train
    from audiodiff.training.watch import load_curve

    config = load_run_config(conf, settings | ({"data.train": data} if data else {}))
    if dry_run:
        from audiodiff.training.dry_run import in_words, measure_cost

        click.echo("\n".join(in_words(measure_cost(config))))
        return
    run_dir = run_dir or Path("exp") / conf.stem
    curve = conf.with_suffix(".curve.json")
    outcome = train(config, run_dir, resume, reference=load_curve(curve) if curve.is_file() else None)
    if not outcome.spokesman:
        return
    if math.isfinite(outcome.best_loss):
        best = f"{run_dir / 'best'}: validation loss {outcome.best_loss:.4f} at step {outcome.best_step}"
        click.echo(best)
    if outcome.bad_recordings:
        bad = run_dir / "bad_recordings.jsonl"
        click.echo(f"{outcome.bad_recordings} recordings could not be read, see {bad}", err=True)
    click.echo(f"{run_dir / 'last'}: step {outcome.step} of {config.training.steps}, {outcome.skipped} skipped")
    if outcome.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
