"""`audiodiff bulk`: vocode a large set of mels or recordings on all machines of a Ray cluster, or on this one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.jobs import Job, collect_jobs
from audiodiff.cli.options import VOCODING, changes, progress_bar, synthesis_options, vocoder_options

if TYPE_CHECKING:
    from audiodiff.cli.vocoding import Wishes
    from audiodiff.engine.choose import Dtype


@click.command("bulk", short_help="Vocode a large set of files on a Ray cluster.")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUTS...")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A folder.")
@vocoder_options
@synthesis_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="CLIPS",
    help="Files handed to a process at a time, and clips of equal length synthesised together.",
)
@click.option("--resample", is_flag=True, help="Resample recordings whose rate is not the model's.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that synthesise, each with the model in memory.",
)
@click.option(
    "--gpus", type=click.FloatRange(min=0), default=0.0, metavar="SHARE", help="GPUs per process, such as 0.5."
)
@click.option("--address", metavar="ADDRESS", help="Of a Ray cluster; without it Ray is started on this machine.")
def command(
    *,
    inputs: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    processes: int,
    gpus: float,
    address: str | None,
    **options: Any,
) -> None:
    """Vocode a large set of mels or recordings on all machines of a Ray cluster, or on this one.

    INPUTS are as for `audiodiff vocode`; they, the model and the output must lie where all machines see them. Files
    that are there already are skipped, so the same command goes on after an interruption. If some inputs fail, the
    others are done, the failed are listed, and the exit code is 1.
    """
    from audiodiff.cli.vocoding import Wishes

    jobs = collect_jobs([path.absolute() for path in inputs], output.absolute())
    waiting = [job for job in jobs if overwrite or not job.target.is_file()]
    click.echo(f"{len(jobs) - len(waiting)} of {len(jobs)} are there already", err=True)
    if not waiting:
        return
    settings = changes(**{name: options.pop(name) for name in VOCODING})
    model = (options.pop("model"), options.pop("device"), options.pop("dtype"))
    wishes = Wishes(changes=settings, **options)
    failures = []
    with progress_bar(len(waiting)) as bar:
        for row in _on_ray(waiting, wishes, model, (processes, gpus, address)):
            bar.update(1)
            if row["failed"]:
                failures.append(row["text"])
    click.echo(f"{len(waiting) - len(failures)} of {len(waiting)} made in {output}")
    if failures:
        click.echo("\n  ".join([f"{len(failures)} failed:", *failures]), err=True)
        click.get_current_context().exit(1)


class Synthesiser:
    """What each process runs: the model, loaded once, and the vocoding of one batch of jobs after the other.

    Args:
        model: Name or folder of the model.
        device: Where to compute.
        dtype: What in, as `Vocoder.from_pretrained` takes it.
        wishes: How to vocode.
    """

    def __init__(self, model: str | None, device: str, dtype: Dtype, wishes: Wishes) -> None:
        from audiodiff.pipelines import Vocoder

        self._vocoder = Vocoder.from_pretrained(model, device, dtype)
        self._wishes = wishes

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Vocode a batch; columns `source` and `target` become `text` and `failed`."""
        from audiodiff.cli.vocoding import vocode_files

        pairs = zip(batch["source"], batch["target"], strict=True)
        jobs = [Job(Path(source), Path(target)) for source, target in pairs]
        outcomes = list(vocode_files(self._vocoder, jobs, self._wishes, lambda share: None))
        return {"text": [outcome.text for outcome in outcomes], "failed": [outcome.failed for outcome in outcomes]}


def _on_ray(
    jobs: Sequence[Job], wishes: Wishes, model: tuple[str | None, str, Dtype], cluster: tuple[int, float, str | None]
) -> Iterator[dict[str, Any]]:
    """Yield a row with `text` and `failed` for each job, as they are done."""
    from audiodiff.errors import ConfigError

    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"audiodiff bulk needs Ray ({error}). Run: pip install 'audiodiff[cluster]'") from error
    processes, gpus, address = cluster
    # A Ray of our own gets one core more than it has processes, or its reading would wait for them on a small machine.
    local: dict[str, Any] = {} if address else {"num_cpus": processes + 1, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"source": str(job.source), "target": str(job.target)} for job in jobs]
        n_blocks = -(-len(rows) // wishes.batch_size)
        done = ray.data.from_items(rows, override_num_blocks=n_blocks).map_batches(
            Synthesiser,
            fn_constructor_args=(*model, wishes),
            batch_size=wishes.batch_size,
            compute=ray.data.ActorPoolStrategy(size=processes),
            num_gpus=gpus or None,
        )
        yield from done.iter_rows()
    finally:
        ray.shutdown()
