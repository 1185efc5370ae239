"""`audiodiff train`: train or fine-tune a model from a YAML configuration."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiodiff.choices import MINUTES, FilePath
from audiodiff.cli import options as opt
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.training.trainer import TrainResult


@click.command("train", cls=Verb)
@click.argument("conf", metavar="CONF.yaml", type=opt.EXISTING_FILE)
@click.option("--data", metavar="FOLDER|MANIFEST|SHARDS", help="Training data, instead of data.train of the file.")
@click.option(
    "--run",
    "--run-dir",
    "run_dir",
    metavar="DIR",
    type=opt.FOLDER,
    help="Folder for checkpoints, logs and the best model.  [default: exp/CONF]",
)
@click.option(
    "--minutes",
    metavar="MINUTES",
    type=MINUTES,
    help="End after this time, and let the learning rate follow it: training.minutes of the file.",
)
@opt.settings("training.steps=20000")
@click.option("--dry-run", is_flag=True, help="Take three steps, print the cost of the run, and write nothing.")
@opt.expert(
    "--resume",
    metavar="auto|never|PATH",
    type=FilePath(),
    default="auto",
    show_default=True,
    help="auto resumes from the newest checkpoint in DIR, if any; PATH is a checkpoint or another run.",
)
@opt.threads
@opt.expert(
    "--allow-changes",
    is_flag=True,
    help="Resume with other settings than those of the steps done; DIR/history.jsonl says which, from which step on.",
)
@opt.expert(
    "--keep-curve", is_flag=True, help="Store the validation losses as CONF.curve.json, to compare later runs with."
)
def command(
    *,
    conf: Path,
    run_dir: Path | None,
    resume: str,
    data: str | None,
    minutes: float | None,
    dry_run: bool,
    keep_curve: bool,
    allow_changes: bool,
    settings: dict[str, object],
) -> None:
    """Train or fine-tune a model from CONF.yaml.

    Rerun the same command to resume, with the same settings. SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint first, and
    make the exit code 143, 138 or 130. Where CONF.curve.json exists, the validation loss is compared with it.

    Train in several processes with `accelerate launch -m audiodiff train ...`, or on CPUs with `torchrun
    --nproc-per-node N -m audiodiff train ... --run-dir DIR` (torchrun would take --run for its own option).
    """
    import signal

    from audiodiff.config import load_run_config
    from audiodiff.training.loss_curve import load_curve
    from audiodiff.training.trainer import train

    options = {"data.train": data, "training.minutes": minutes}
    config = load_run_config(conf, settings | {key: value for key, value in options.items() if value is not None})
    if dry_run:
        from audiodiff.training.dry_run import format_cost, measure_cost

        click.echo("\n".join(format_cost(measure_cost(config))))
        return
    run_dir = run_dir or Path("exp") / conf.stem
    curve = conf.with_suffix(".curve.json")
    reference = load_curve(curve) if curve.is_file() else None
    result = train(config, run_dir, resume, reference=reference, allow_changes=allow_changes)
    if result.is_main_process:
        _report(result, config.training.steps, run_dir, curve if keep_curve else None)
    if result.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if result.stopped_by is not None:
        click.get_current_context().exit(128 + result.stopped_by)


def _report(result: TrainResult, steps: int, run_dir: Path, curve: Path | None) -> None:
    """Say where the models are, and store the loss curve."""
    from audiodiff.training.checkpoints import RunFolder
    from audiodiff.training.loss_curve import load_curve

    if math.isfinite(result.best_loss):
        best = f"{run_dir / 'best'}: validation loss {result.best_loss:.4f} at step {result.best_step}"
        click.echo(best)
    if result.bad_recordings:
        bad = run_dir / "bad_recordings.jsonl"
        click.echo(f"{result.bad_recordings} recordings could not be read, see {bad}", err=True)
    click.echo(f"{run_dir / 'last'}: step {result.step} of {steps}, {result.skipped} skipped")
    if curve is not None and RunFolder(run_dir).history.is_file():
        click.echo(f"{curve} is not written: settings changed on the way, see {run_dir / 'history.jsonl'}", err=True)
    elif curve is not None and result.stopped_by is None:
        load_curve(RunFolder(run_dir).curve).save(curve)
        click.echo(f"{curve}: the reference curve of later runs")
