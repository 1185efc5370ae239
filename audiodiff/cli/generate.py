"""`audiodiff generate`: new clips from a class label, or from nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.options import changes, progress_bar, synthesis_options, warnings_logged

if TYPE_CHECKING:
    from torch import Tensor

    from audiodiff.engine.choose import Dtype


@click.command("generate", short_help="Make new audio, of a label where the model has labels.")
@click.option("--model", required=True, metavar="NAME|FOLDER", help="A bundled model or a model folder.")
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A folder for the clips.",
)
@click.option("--label", metavar="NAME", help="What to make; `audiodiff info MODEL` lists a model's labels.")
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How many clips to make."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Length of each; the model's own by default.",
)
@synthesis_options
def command(*, output: Path, label: str | None, count: int, seed: int, overwrite: bool, **options: Any) -> None:
    """Make new audio, of a label where the model has labels.

    Clip number i is made from seed + i and is written to DIR/LABEL_SEED.wav (clip_SEED.wav without a label), so the
    same clip has the same name whatever else is asked for. Clips that are there already are skipped.
    """
    stem = re.sub(r"[^\w.-]+", "-", label or "clip")  # a label may hold what a file name may not
    targets = {seed + i: output / f"{stem}_{seed + i}.wav" for i in range(count)}
    waiting = {number: path for number, path in targets.items() if overwrite or not path.is_file()}
    for number, path in targets.items():
        if number not in waiting:
            click.echo(f"{click.format_filename(path)}  skipped: it is there already")
    if waiting:
        with warnings_logged():
            _generate(waiting, label=label, **options)
    if len(waiting) < count:
        click.echo(f"{count - len(waiting)} of {count} skipped; --overwrite makes them anew", err=True)


def _generate(
    targets: dict[int, Path],
    *,
    model: str,
    device: str,
    dtype: Dtype,
    label: str | None,
    seconds: float | None,
    **options: Any,
) -> None:
    from audiodiff.audio.io import save_audio
    from audiodiff.pipelines import Generator

    generator = Generator.from_pretrained(model, device, dtype)
    settings = changes(**options)
    steps, n_samples = settings.get("steps", generator.config.synthesis.steps), generator.n_samples(seconds)
    with progress_bar(len(targets)) as bar:

        def on_step(_step: int, x: Tensor) -> None:
            bar.update(x.numel() / (steps * n_samples))

        for seed, path in targets.items():
            started = time.perf_counter()
            audio = generator.generate(label, 1, seconds, seed=seed, on_step=on_step, **settings)[0].cpu()
            elapsed = time.perf_counter() - started
            path.parent.mkdir(parents=True, exist_ok=True)
            save_audio(path, audio, generator.sample_rate)
            duration = audio.shape[-1] / generator.sample_rate
            figures = f"{duration:.2f} s, made in {elapsed:.2f} s, real-time factor {elapsed / duration:.3f}"
            with bar.external_write_mode():
                click.echo(f"{click.format_filename(path)}  {figures}")
