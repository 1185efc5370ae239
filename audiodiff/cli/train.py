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
    "--run-dir",
    "run_dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run: checkpoints, curves, the best model. torchrun takes --run for an option of its own, and "
    "leaves --run-dir alone.  [default: exp/CONF]",
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
@click.option(
    "--keep-curve",
    is_flag=True,
    help="When all steps are done, keep the validation losses as CONF.curve.json, for later runs to be compared with.",
)
@settings_option("training.steps=20000")
def command(
    *,
    conf: Path,
    run_dir: Path | None,
    resume: str,
    data: str | None,
    dry_run: bool,
    keep_curve: bool,
    settings: dict[str, object],
) -> None:
    """Train a model as CONF.yaml describes it, or go on training it.

    SIGTERM and Ctrl-C save a checkpoint first. The same command goes on from there. A loss curve beside the file, named
    CONF.curve.json, is what validation is compared with; --keep-curve writes it.

    `accelerate launch -m audiodiff train ...` trains in several processes, on one machine or many; so does `torchrun
    --nproc-per-node N -m audiodiff train ... --run-dir DIR`. On CPUs take the latter: `accelerate launch --cpu` starts
    one process, whatever its --num_processes says.
    """
    import signal

    from audiodiff.config import load_run_config
    from audiodiff.training.checkpoints import RunFolder
    from audiodiff.training.loss_curve import load_curve
    from audiodiff.training.trainer import train

    config = load_run_config(conf, settings | ({"data.train": data} if data else {}))
    if dry_run:
        from audiodiff.training.dry_run import in_words, measure_cost

        click.echo("\n".join(in_words(measure_cost(config))))
        return
    run_dir = run_dir or Path("exp") / conf.stem
    curve = conf.with_suffix(".curve.json")
    result = train(config, run_dir, resume, reference=load_curve(curve) if curve.is_file() else None)
    if not result.is_main_process:
        return
    if math.isfinite(result.best_loss):
        best = f"{run_dir / 'best'}: validation loss {result.best_loss:.4f} at step {result.best_step}"
        click.echo(best)
    if result.bad_recordings:
        bad = run_dir / "bad_recordings.jsonl"
        click.echo(f"{result.bad_recordings} recordings could not be read, see {bad}", err=True)
    click.echo(f"{run_dir / 'last'}: step {result.step} of {config.training.steps}, {result.skipped} skipped")
    if keep_curve and result.stopped_by is None:
        load_curve(RunFolder(run_dir).curve).save(curve)
        click.echo(f"{curve}: what later runs are compared with")
    if result.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
