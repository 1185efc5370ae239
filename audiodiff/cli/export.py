"""`audiodiff export`: a trained model as a folder to share."""

from __future__ import annotations

from pathlib import Path

import click

from audiodiff.cli import options as opt


@click.command("export", cls=opt.Verb)
@click.argument("model", metavar="MODEL")
@click.argument("folder", metavar="FOLDER", type=opt.FOLDER)
@click.option("--half", is_flag=True, help="Store matrices in float16: half the size, no audible difference.")
@click.option(
    "--provenance",
    metavar="FILE.yaml",
    type=opt.EXISTING_FILE,
    help="Facts to add to the model's provenance: data, licences, hours, scores.",
)
@opt.settings("synthesis.steps=4")
def command(*, model: str, folder: Path, half: bool, provenance: Path | None, settings: dict[str, object]) -> None:
    """Export MODEL, such as the `best` of a run, to FOLDER."""
    from audiodiff.checkpoint import WEIGHTS, find_model, load_model, save_model
    from audiodiff.config import ModelConfig, change, parse_config
    from audiodiff.errors import ConfigError
    from audiodiff.text import read_yaml

    network, config = load_model(find_model(model))
    values = config.model_dump(mode="json")
    if provenance is not None:
        notes = read_yaml(provenance, ConfigError)
        if not isinstance(notes, dict):
            raise ConfigError(f"{provenance} is not a mapping. Give it keys such as data and licence.")
        values["provenance"] = values["provenance"] | notes
    save_model(folder, network.state_dict(), parse_config(ModelConfig, change(values, settings), "--set"), half=half)
    click.echo(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB")
