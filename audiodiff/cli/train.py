"""`audiodiff train`: train or fine-tune a model from a YAML configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiodiff.choices import MINUTES, SEED, WORKERS, FilePath, Numbers
from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, loading, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.training.trainer import TrainResult


@click.command(
    "train",
    cls=Verb,
    examples=(
        "audiodiff train conf/vocoder.yaml --dry-run",
        "audiodiff train conf/vocoder.yaml --data data/ --minutes 60",
    ),
)
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
    help="End after this time, and let the learning rate decay with it: training.minutes of the file.",
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
    "--vary",
    metavar="KEY=VALUE,...",
    multiple=True,
    help="Train a run for each of these values, in DIR/KEY=VALUE/seed=N; repeated, for each combination. `audiodiff "
    "compare DIR` compares them.",
)
@opt.expert("--seeds", type=Numbers(SEED, example="0,1,2"), metavar="N,...", help="Train a run for each seed.")
@opt.expert(
    "--workers", type=WORKERS, metavar="N", help="Runs at a time, of --vary and --seeds.  [default: one per core]"
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
    vary: tuple[str, ...],
    seeds: tuple[int, ...] | None,
    workers: int | None,
    settings: dict[str, object],
) -> None:
    """Train or fine-tune a model from CONF.yaml. `audiodiff new` writes one for recordings of your own, and runs it.

    Rerun the same command to resume, with the same settings. SIGTERM, SIGUSR1, SIGHUP and Ctrl-C save a checkpoint
    first, and make the exit code 143, 138, 129 or 130. Where CONF.curve.json exists, the validation loss is compared
    with it.

    Train in several processes with `accelerate launch -m audiodiff train ...`, or on CPUs with `torchrun
    --nproc-per-node N -m audiodiff train ... --run-dir DIR` (torchrun would take --run for its own option).

    --vary and --seeds train many runs, several at a time, and compare them.
    """
    import signal

    with loading("the trainer"):
        from audiodiff.config import load_run_config
        from audiodiff.training.dry_run import format_cost, measure_cost
        from audiodiff.training.loss_curve import load_curve
        from audiodiff.training.trainer import train

    options = {"data.train": data, "training.minutes": minutes}
    config = load_run_config(conf, settings | {key: value for key, value in options.items() if value is not None})
    if dry_run:
        with progress_bar(1, "measuring") as bar:
            cost = measure_cost(config, bar.update)
        click.echo("\n".join(format_cost(cost)))
        return
    run_dir = run_dir or Path("exp") / conf.stem
    if vary or seeds:
        for option, is_given in (("--resume", resume != "auto"), ("--keep-curve", keep_curve)):
            if is_given:
                raise click.UsageError(f"{option} is of one run. Leave it out with --vary and --seeds.")
        given = settings | {key: value for key, value in options.items() if value is not None}
        _sweep(conf, run_dir, vary, seeds or (config.training.seed,), given, workers, allow_changes=allow_changes)
        return
    if workers is not None:
        raise click.UsageError("--workers is for --vary and --seeds; data.workers is a setting of the configuration.")
    curve = conf.with_suffix(".curve.json")
    reference = load_curve(curve) if curve.is_file() else None
    result = train(config, run_dir, resume, reference=reference, allow_changes=allow_changes)
    if result.is_main_process:
        _report(result, config.training.steps, run_dir, curve if keep_curve else None)
    if result.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if result.stopped_by is not None:
        click.get_current_context().exit(128 + result.stopped_by)


def _sweep(
    conf: Path,
    folder: Path,
    vary: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, object],
    workers: int | None,
    *,
    allow_changes: bool,
) -> None:
    """Train the runs of a sweep, print a line as each ends, and compare them."""
    from audiodiff.config import load_run_config
    from audiodiff.evaluation.runs import compare_runs, comparison_rows, read_run
    from audiodiff.text import markdown_table
    from audiodiff.training.sweep import LOG, plan_sweep, run_sweep

    runs = plan_sweep(folder, _values(vary), seeds)
    for run in runs:  # a mistake shows before anything is trained
        load_run_config(conf, {**settings, **run.settings})
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    words += ["--allow-changes"] * allow_changes
    failed = []
    with progress_bar(len(runs), "training") as bar:
        for run, code in run_sweep(runs, conf, words, workers):
            failed += [run] if code else []
            with above_the_line():
                outcome = f"failed with exit code {code}, see {run.folder / LOG}" if code else str(read_run(run.folder))
                click.echo(f"{run.folder}: {outcome}", err=bool(code))
            bar.update()
    if not failed and len(runs) > 1:
        click.echo(markdown_table(comparison_rows(compare_runs([run.folder for run in runs]))))
    if failed:
        click.echo(f"{len(failed)} of {len(runs)} runs failed. Rerun the same command to go on.", err=True)
        click.get_current_context().exit(1)


def _values(words: Sequence[str]) -> dict[str, list[object]]:
    """Turn KEY=VALUE,VALUE words into dotted keys and lists of YAML values; commas in brackets do not divide."""
    from audiodiff.errors import ConfigError
    from audiodiff.text import parse_yaml

    vary: dict[str, list[object]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals and text) or key in vary:
            raise click.UsageError(f"--vary {word!r}: expected KEY=VALUE,VALUE, and every key once.")
        try:
            vary[key] = list(parse_yaml(f"[{text}]", f"the values of {key}", ConfigError))
        except ConfigError as error:
            raise click.UsageError(f"--vary: {error}") from error
    return vary


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
