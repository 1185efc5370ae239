"""`audiodiff generate`: new clips from a class label, a speaker, a vector, or unconditionally."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from audiodiff.choices import COUNT, FRACTION, GUIDANCE, LEVEL, LOG_SNR, SECONDS, Level
from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, loading, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.engine.choose import Dtype
    from audiodiff.pipelines.generate_files import GenerateOptions

EXAMPLES = (
    "audiodiff generate --model drums-22k --label kick --count 4 -o kicks/",
    "audiodiff generate --model words-16k --label yes --seed 7 -o words/",
)


@click.command("generate", cls=Verb, examples=EXAMPLES)
@click.option(
    "--model",
    required=True,
    metavar="NAME|FOLDER",
    help="A bundled generator (`audiodiff info` lists them), a model folder or hub:OWNER/NAME.",
)
@click.option("--output", "-o", required=True, type=opt.FOLDER, metavar="DIR", help="Folder for the clips.")
@click.option("--label", metavar="NAME", help="What to generate; `audiodiff info MODEL` lists a model's labels.")
@click.option("--count", type=COUNT, default=1, show_default=True, metavar="N", help="How many clips.")
@click.option("--seconds", type=SECONDS, metavar="SECONDS", help="Length of each clip.  [default: the model's]")
@opt.seed("of the first clip; each further clip takes the next")
@click.option(
    "--level",
    type=LEVEL,
    metavar="DB",
    help="Peak of each clip in dBFS, or its loudness, such as -16LUFS.  [default: -1]",
)
@opt.expert_steps
@opt.expert_overwrite
@opt.expert(
    "--raw", is_flag=True, help="Leave level and ends of the clips as they come, in 32-bit floating-point files."
)
@opt.expert(
    "--guidance",
    type=GUIDANCE,
    metavar="SCALE",
    help="Classifier-free guidance scale: 1 is none; 2 to 4 gives clearer, less varied clips at twice the cost.  "
    "[default: the model's]",
)
@opt.expert("--speaker", metavar="NAME", help="Speaker; `audiodiff info MODEL` lists a model's speakers.")
@opt.expert(
    "--vector",
    type=opt.EXISTING_FILE,
    metavar="FILE.npy",
    help="Embedding to condition on, for a model that takes one.",
)
@opt.expert(
    "--guidance-rescale",
    type=FRACTION,
    metavar="FRACTION",
    help="Rescale guided predictions to the unguided level (0 to 1).",
)
@opt.expert(
    "--guidance-interval", type=(LOG_SNR, LOG_SNR), metavar="LOW HIGH", help="Log-SNR range in which guidance acts."
)
@opt.expert(
    "--as-dataset", is_flag=True, help="Make a labelled dataset: --count clips of every label, and DIR/train.jsonl."
)
@opt.expert(
    "--training",
    type=opt.EXISTING_FILE,
    metavar="MANIFEST",
    help="With --as-dataset: training manifest; records each clip's nearest training clip.",
)
@opt.synthesis
def command(
    *,
    output: Path,
    model: str,
    label: str | None,
    speaker: str | None,
    vector: Path | None,
    seconds: float | None,
    level: Level | None,
    raw: bool,
    count: int,
    seed: int,
    overwrite: bool,
    as_dataset: bool,
    training: Path | None,
    device: str,
    dtype: Dtype,
    **options: Any,
) -> None:
    """Generate clips, of a class or unconditionally.

    Clip i is made from seed + i and written to DIR/LABEL_SEED.wav (clip_SEED.wav without a label); speaker and vector
    follow the label in the name. Existing clips are skipped, so the same command resumes. Where no default is shown, it
    is the model's own.

    Each clip is brought to --level by itself, and its ends are faded where they are not silent. A clip that would need
    more than 24 dB is amplified only as far as its noise floor stays below -36 dBFS, and its line says so.

    With --as-dataset the manifest records each clip's label, seed, model and SHA-256.
    """
    from audiodiff.pipelines.generate_files import GenerateOptions

    if raw and level is not None:
        raise click.UsageError("--raw leaves the level as it comes. Leave --raw or --level out.")
    level = None if raw else level or Level(-1)
    how = GenerateOptions(speaker, vector, seconds, level, opt.changes(**options))
    where = {"model": model, "device": device, "dtype": dtype}
    if as_dataset:
        if label is not None:
            raise click.UsageError("--as-dataset makes clips of every label. Leave --label out.")
        _generate_dataset(how, output, count, seed, training, overwrite, **where)
        return
    if training is not None:
        raise click.UsageError("--training is for --as-dataset. Add it, or leave --training out.")
    _generate(how, output, label, range(seed, seed + count), overwrite, **where)


def _generate(
    how: GenerateOptions, output: Path, label: str | None, seeds: range, overwrite: bool, **model: Any
) -> None:
    from audiodiff.checkpoint import find_model, load_config
    from audiodiff.pipelines.generate_files import generate_files, named, safe_name

    label, how = named(load_config(find_model(model["model"])), label, how)
    stem = safe_name("_".join(part for part in (label, how.speaker, how.vector and how.vector.stem) if part) or "clip")
    targets = {seed: output / f"{stem}_{seed}.wav" for seed in seeds}
    pending = {seed: path for seed, path in targets.items() if overwrite or not path.is_file()}
    for seed, path in targets.items():
        if seed not in pending:
            click.echo(f"{click.format_filename(path)}  skipped: it exists")
    if pending:
        generator, _ = _load(**model)
        with progress_bar(len(pending), "generating") as bar:
            for clip in generate_files(generator, pending, label, how, bar.update, overwrite=overwrite):
                factor = clip.synthesis_seconds / clip.seconds
                with above_the_line():
                    click.echo(
                        f"{click.format_filename(clip.path)}  {clip.seconds:.2f} s, "
                        f"synthesised in {clip.synthesis_seconds:.2f} s, real-time factor {factor:.3f}"
                        f"{'; ' if clip.remark else ''}{clip.remark}"
                    )
    opt.report_failures(len(targets), len(targets) - len(pending), [])


def _generate_dataset(
    how: GenerateOptions, output: Path, count: int, seed: int, training: Path | None, overwrite: bool, **model: Any
) -> None:
    from audiodiff.pipelines.generate_files import Dataset, generate_dataset

    generator, folder = _load(**model)
    dataset = Dataset(output, folder, count, seed, how, training)
    with progress_bar(0, "generating") as bar:
        result = generate_dataset(generator, dataset, overwrite=overwrite, on_progress=bar.set)
    if result.similarities:
        line = f"nearest training clip: similarity {_median_and_largest(result.similarities)}"
        if result.training_similarities:
            line += f"; training clips among themselves {_median_and_largest(result.training_similarities)}"
        click.echo(line)
    click.echo(
        f"{result.manifest}: {result.n_clips} clips, {count} of each of {len(generator.config.labels)} labels; "
        f"{result.n_new} new"
    )


def _median_and_largest(similarities: list[float]) -> str:
    return f"{median(similarities):.3f} (median), {max(similarities):.3f} (largest)"


def _load(*, model: str, device: str, dtype: Dtype) -> Any:
    """Return the generator and its folder."""
    from audiodiff.checkpoint import find_model
    from audiodiff.pipelines import Generator

    with loading(model):
        folder = find_model(model)
        return Generator.from_pretrained(folder, device, dtype), folder
