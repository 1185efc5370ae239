"""The command line that all recipes have: `python -m recipes.NAME CORPUS_DIR OUT_DIR`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from audiodiff.choices import FRACTION_BELOW_1, SEED, WORKERS, FilePath, Number
from audiodiff.errors import AudiodiffError, escape_unprintable
from recipes._common import FeatureOptions, Recipe

_RENAMED = {"--valid-share": "--valid-fraction", "--test-share": "--test-fraction"}
_FOLDER = FilePath(file_okay=False, path_type=Path)


class _Command(click.Command):
    """A command that still takes the old names of options, with a warning."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replace old names."""
        words = []
        for word in args:
            option, equals, value = word.partition("=")
            if option in _RENAMED:
                logging.getLogger(__name__).warning("%s is deprecated; use %s", option, _RENAMED[option])
            words.append(_RENAMED.get(option, option) + equals + value)
        return super().parse_args(ctx, words)


def command(recipe: Recipe, help_text: str) -> click.Command:
    """Build the command of a recipe.

    Args:
        recipe: What it runs.
        help_text: What its help says of the corpus.

    Returns:
        The command; it writes manifests, prints a line for each, and exits with 1 if a file could not be read.
    """
    own = {str(option.name) for option in recipe.options}

    def callback(corpus_dir: Path, out_dir: Path, **values: Any) -> None:
        options = {name: values.pop(name) for name in own}
        try:
            _run(recipe, corpus_dir, out_dir, options, **values)
        except AudiodiffError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    parameters: list[click.Parameter] = [
        click.Argument(["corpus_dir"], type=_FOLDER),
        click.Argument(["out_dir"], type=_FOLDER),
        *recipe.options,
        *_shared_options(recipe),
    ]
    paragraphs = "\n\n".join("\b\n" + paragraph for paragraph in help_text.split("\n\n"))
    names = {"help_option_names": ["-h", "--help"]}
    return _Command(None, params=parameters, callback=callback, help=paragraphs, context_settings=names)


def _shared_options(recipe: Recipe) -> list[click.Option]:
    options = [
        click.Option(
            ["--mels"], metavar="CONVENTION", help="Write mel spectrograms too; hifigan-22k, vocos-24k@16000 ..."
        ),
        click.Option(
            ["--mel-precision"],
            type=click.Choice(["float16", "float32"]),
            default="float16",
            show_default=True,
            help="Type of the mels.",
        ),
        click.Option(
            ["--waves"],
            type=Number(int, low=8000, high=48_000, unit="Hz"),
            metavar="HZ",
            help="Write mono FLAC at this rate, and list that.",
        ),
        click.Option(
            ["--bandwidth"], is_flag=True, help="Measure the bandwidth of each recording and store it in the manifest."
        ),
        click.Option(
            ["--valid-fraction"],
            type=FRACTION_BELOW_1,
            metavar="FRACTION",
            help="Fraction for validation, where no official split exists.",
        ),
        click.Option(["--test-fraction"], type=FRACTION_BELOW_1, metavar="FRACTION", help="Fraction for the test set."),
        click.Option(
            ["--resplit"], is_flag=True, help="Split by these fractions even where there is a published split."
        ),
        click.Option(["--seed"], type=SEED, default=0, show_default=True, help="Random seed of the split."),
        click.Option(["--workers"], type=WORKERS, metavar="N", help="Parallel processes.  [default: one per core]"),
    ]
    if recipe.archives:
        options.append(click.Option(["--download"], is_flag=True, help="Fetch the corpus into CORPUS_DIR first."))
    if len(recipe.archives) > 1:
        parts = click.Choice([archive.name for archive in recipe.archives])
        options.append(click.Option(["--part"], type=parts, multiple=True, help="What to fetch; may be repeated."))
    return options


def _run(
    recipe: Recipe,
    corpus_dir: Path,
    out_dir: Path,
    options: dict[str, Any],
    *,
    mels: str | None,
    mel_precision: Any,
    waves: int | None,
    bandwidth: bool,
    valid_fraction: float | None,
    test_fraction: float | None,
    resplit: bool,
    seed: int,
    workers: int | None,
    download: bool = False,
    part: tuple[str, ...] = (),
) -> None:
    if part and not download:
        raise click.UsageError("--part says what to fetch, and needs --download.")
    if download:
        recipe.download(corpus_dir, part)
    result = recipe.prepare(
        corpus_dir,
        out_dir,
        FeatureOptions(mels, mel_precision, waves, bandwidth),
        seed=seed,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        resplit=resplit,
        workers=workers,
        **options,
    )
    from audiodiff.data.manifest import amount

    for reason in result.unreadable:
        click.echo(f"left out: {reason}", err=True)
    for name, recordings in result.split._asdict().items():
        seconds = sum(recording.seconds for recording in recordings)
        click.echo(f"{out_dir / name}.jsonl: {amount(len(recordings), seconds)}")
    if result.unreadable:
        click.echo(f"{len(result.unreadable)} of {len(result.recordings)} files could not be read", err=True)
        sys.exit(1)


def run(recipe: Recipe) -> None:
    """Run a recipe as the main module, whose docstring its help shows."""
    escape_unprintable()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ else "recipe"
    command(recipe, main.__doc__ or "")(prog_name=f"python -m {name}")
