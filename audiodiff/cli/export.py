"""`audiodiff export`: a trained model as others shall get it."""

from __future__ import annotations

from pathlib import Path

import click

from audiodiff.cli.settings import settings_option


@click.command("export")
@click.argument("model", metavar="MODEL")
@click.argument("folder", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path))
@click.option("--half", is_flag=True, help="Store matrices in 16 bits: half the size, no audible difference.")
@click.option(
    "--provenance",
    metavar="FILE.yaml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is to be known of the model (data, licences, hours, scores); added to what training has noted.",
)
@settings_option("synthesis.steps=4")
def command(*, model: str, folder: Path, half: bool, provenance: Path | None, settings: dict[str, object]) -> None:
    """Copy MODEL, such as a run's `best`, to FOLDER as a model folder to give away."""
    import yaml

    from audiodiff.checkpoint import WEIGHTS, find_model, load_model, save_model
    from audiodiff.config import ModelConfig, change, parse_config
    from audiodiff.errors import ConfigError

    network, config = load_model(find_model(model))
    values = config.model_dump(mode="json")
    if provenance is not None:
        try:
            notes = yaml.safe_load(provenance.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{provenance} cannot be read as YAML: {error}") from error
        if not isinstance(notes, dict):
            raise ConfigError(f"{provenance} is no mapping; give it keys such as data and licence.")
        values["provenance"] = values["provenance"] | notes
    save_model(folder, network.state_dict(), parse_config(ModelConfig, change(values, settings), "--set"), half=half)
    click.echo(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB")
