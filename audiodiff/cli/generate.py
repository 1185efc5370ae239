"""`audiodiff generate`: new clips from a class label, a speaker, a vector, or from nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.options import changes, progress_bar, steps_of, synthesis_options, warnings_logged

if TYPE_CHECKING:
    from torch import Tensor

    from audiodiff.engine.choose import Dtype

TOGETHER = 8
"""Clips made at a time: on a CPU a third faster than one by one, and the same to the last bit."""


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
@click.option("--speaker", metavar="NAME", help="Who is to be heard; `audiodiff info MODEL` lists a model's speakers.")
@click.option(
    "--vector",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.npy",
    help="What is to be followed, as many numbers as the model's vector_width, such as another model's embedding.",
)
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How many clips to make."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Length of each; the model's own by default.",
)
@click.option(
    "--guidance",
    type=click.FloatRange(min=0),
    metavar="SCALE",
    help="How strongly label, speaker and vector steer: 1 as trained, 2 to 4 for clearer clips that vary less, at "
    "twice the cost; the model's own by default.",
)
@click.option(
    "--guidance-rescale",
    type=click.FloatRange(min=0, max=1),
    metavar="SHARE",
    help="How far the level that guidance inflates is brought back, 0 to 1; the model's own by default.",
)
@click.option(
    "--guidance-interval",
    type=(float, float),
    metavar="LOW HIGH",
    help="Log-SNR from which and up to which guidance acts; the model's own by default.",
)
@click.option(
    "--as-dataset",
    is_flag=True,
    help="Make a labelled corpus: --count clips of every label in a folder each, and DIR/train.jsonl.",
)
@click.option(
    "--training",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="MANIFEST",
    help="With it: what the model was trained on, to note for each clip which of these it is most like.",
)
@synthesis_options
def command(
    *,
    output: Path,
    label: str | None,
    speaker: str | None,
    vector: Path | None,
    count: int,
    seed: int,
    overwrite: bool,
    as_dataset: bool,
    training: Path | None,
    **options: Any,
) -> None:
    """Make new audio, of a label where the model has labels.

    Clip number i is made from seed + i and is written to DIR/LABEL_SEED.wav (clip_SEED.wav without a label), so the
    same clip has the same name whatever else is asked for; the speaker and the name of the vector's file follow the
    label. Clips that are there already are skipped. A model that was trained with condition_dropout can do without any
    of them.

    With --as-dataset the manifest says of each clip its label, its seed, the model and its SHA-256, and with --training
    the training clip that it is most like. A killed run goes on where it was; --count can be raised later.
    """
    if as_dataset:
        if label is not None:
            raise click.UsageError("--as-dataset makes clips of every label. Leave --label out.")
        with warnings_logged():
            told: dict[str, Any] = {"speaker": speaker, "vector": vector}
            _write_corpus(output, count, seed, training, overwrite=overwrite, **told, **options)
        return
    if training is not None:
        raise click.UsageError("--training is for --as-dataset. Add it, or leave --training out.")
    parts = [part for part in (label, speaker, vector and vector.stem) if part]
    stem = re.sub(r"[^\w.-]+", "-", "_".join(parts) or "clip")  # a label may hold what a file name may not
    targets = {seed + i: output / f"{stem}_{seed + i}.wav" for i in range(count)}
    waiting = {number: path for number, path in targets.items() if overwrite or not path.is_file()}
    for number, path in targets.items():
        if number not in waiting:
            click.echo(f"{click.format_filename(path)}  skipped: it is there already")
    if waiting:
        with warnings_logged():
            _generate(waiting, label=label, speaker=speaker, vector=vector, **options)
    if len(waiting) < count:
        click.echo(f"{count - len(waiting)} of {count} skipped; --overwrite makes them anew", err=True)


def _write_corpus(
    output: Path,
    count: int,
    seed: int,
    training: Path | None,
    *,
    model: str,
    device: str,
    dtype: Dtype,
    speaker: str | None,
    vector: Path | None,
    seconds: float | None,
    overwrite: bool,
    **options: Any,
) -> None:
    from audiodiff.checkpoint import find_model
    from audiodiff.cli.corpus import Corpus, write_corpus
    from audiodiff.data.conditions import load_vector
    from audiodiff.errors import ModelError
    from audiodiff.pipelines import Generator

    folder = find_model(model)
    generator = Generator.from_pretrained(folder, device, dtype)
    if not generator.config.labels:
        raise ModelError(f"{model} has no labels, so it cannot make a labelled corpus. Leave --as-dataset out.")
    settings = changes(**options)
    followed = load_vector(vector, generator.config.vector_width) if vector else None
    record = {**settings, "seconds": seconds, "speaker": speaker, "vector": vector}
    corpus = Corpus(output, generator.config.labels, count, seed, folder, record, training)

    def make(label: str, number: int) -> Tensor:
        told: dict[str, Any] = {"speaker": speaker, "vector": followed}
        return generator.generate(label, 1, seconds, seed=number, **told, **settings)[0].cpu()

    write_corpus(corpus, make, generator.sample_rate, overwrite=overwrite)


def _generate(
    targets: dict[int, Path],
    *,
    model: str,
    device: str,
    dtype: Dtype,
    label: str | None,
    speaker: str | None,
    vector: Path | None,
    seconds: float | None,
    **options: Any,
) -> None:
    from audiodiff.audio.io import save_audio
    from audiodiff.data.conditions import load_vector
    from audiodiff.pipelines import Generator

    generator = Generator.from_pretrained(model, device, dtype)
    settings = changes(**options)
    followed = load_vector(vector, generator.config.vector_width) if vector else None
    steps, n_samples = steps_of(settings, generator.config.synthesis.steps), generator.n_samples(seconds)
    with progress_bar(len(targets)) as bar:

        def on_step(_step: int, x: Tensor) -> None:
            bar.update(x.numel() / (steps * n_samples))

        for seeds in _consecutive(targets):
            started = time.perf_counter()
            told: dict[str, Any] = {"speaker": speaker, "vector": followed, "on_step": on_step}
            clips = generator.generate(label, len(seeds), seconds, seed=seeds[0], **told, **settings).cpu()
            elapsed = (time.perf_counter() - started) / len(seeds)
            for path, audio in zip((targets[seed] for seed in seeds), clips, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_audio(path, audio, generator.sample_rate)
                duration = audio.shape[-1] / generator.sample_rate
                figures = f"{duration:.2f} s, made in {elapsed:.2f} s, real-time factor {elapsed / duration:.3f}"
                with bar.external_write_mode():
                    click.echo(f"{click.format_filename(path)}  {figures}")


def _consecutive(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Yield rising numbers in groups without a gap: what is made together, and kept before more is made."""
    group: list[int] = []
    for number in numbers:
        if group and (number != group[-1] + 1 or len(group) == TOGETHER):
            yield group
            group = []
        group.append(number)
    if group:
        yield group
