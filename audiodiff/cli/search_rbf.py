"""`audiodiff search rbf`: the radial basis functions of the noise-level embedding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.options import progress_bar, study_options
from audiodiff.cli.settings import settings_option

if TYPE_CHECKING:
    from audiodiff.search.rbf import Found


@click.command("rbf")
@click.argument("conf", metavar="CONF.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--method",
    type=click.Choice(["grid", "random", "gradient"]),
    default="random",
    show_default=True,
    help="grid: all combinations of a few values, in a random order. random: values between them too. gradient: one "
    "run that trains centres and spreads, whose final values are printed.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="Runs of grid or random."
)
@click.option(
    "--trial-steps", type=click.IntRange(min=1), default=300, show_default=True, metavar="N", help="Length of each."
)
@click.option(
    "--over", multiple=True, metavar="FIELD", help="Search this field of the embedding only. May be repeated."
)
@click.option("--data", metavar="FOLDER|MANIFEST|SHARDS", help="Recordings to train on, instead of data.train.")
@study_options
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.yaml",
    help="The configuration with the best embedding.",
)
@settings_option("training.batch_size=8")
def rbf(
    *, conf: Path, data: str | None, study: Path, output: Path, settings: dict[str, object], over: Any, **options: Any
) -> None:
    """Search the radial basis functions of a model's noise-level embedding, by short training runs.

    Every trial trains fresh weights for --trial-steps steps with the seed of the configuration, and is ranked by the
    loss on the validation recordings. One that crashes is noted and does not end the search.
    """
    import yaml

    from audiodiff.audio.replacing import replacing
    from audiodiff.config import load_run_config
    from audiodiff.search.rbf import KNOBS, Wanted, search_rbf, with_embedding

    names = [knob.name for knob in KNOBS]
    if unknown := [name for name in over if name not in names]:
        raise click.UsageError(f"--over {unknown[0]} is no field that is searched; these are: {', '.join(names)}.")
    config = load_run_config(conf, settings | ({"data.train": data} if data else {}))
    steps, trials = options["trial_steps"], 1 if options["method"] == "gradient" else options["trials"]
    wanted = Wanted(config, options["method"], trials, steps, options["seed"], over or tuple(names))
    with progress_bar(trials * steps) as bar:
        found = search_rbf(wanted, study, lambda: bar.update(1))
    document = with_embedding(config, found.embedding).model_dump(mode="json")
    head = f"# audiodiff search rbf --method {wanted.method}: validation loss {found.loss:.5f} after {steps} steps\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as part:
        part.write_text(head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    _say(found, output)


def _say(found: Found, output: Path) -> None:
    own = "" if found.own_loss is None else f", {found.own_loss:.5f} as the configuration was"
    click.echo(f"validation loss {found.loss:.5f}{own}; {found.trials} trials, {found.crashed} crashed")
    click.echo(", ".join(f"{name} {value}" for name, value in found.embedding.items()))
    for name, values in (("centres", found.centres), ("spreads", found.spreads)):
        if values:
            click.echo(f"{name}  {' '.join(f'{value:.3g}' for value in values)}")
    click.echo(click.format_filename(output))
