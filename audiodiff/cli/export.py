"""`audiodiff export`: a trained model as a folder to share, or sent to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from audiodiff.cli import options as opt
from audiodiff.cli.verbs import Verb


@click.command("export", cls=Verb)
@click.argument("model", metavar="MODEL")
@click.argument("target", metavar="FOLDER|hub:OWNER/NAME", type=opt.FOLDER)
@click.option("--half", is_flag=True, help="Store matrices in float16: half the size, no audible difference.")
@click.option("--private", is_flag=True, help="Create the model on the hub as a private one.")
@click.option(
    "--provenance",
    metavar="FILE.yaml",
    type=opt.EXISTING_FILE,
    help="Facts to add to the model's provenance: data, licences, hours, scores.",
)
@opt.settings("synthesis.steps=4")
def command(
    *, model: str, target: Path, half: bool, private: bool, provenance: Path | None, settings: dict[str, object]
) -> None:
    """Export MODEL, such as the `best` of a run, to a folder or, with a model card, to the Hugging Face hub."""
    from audiodiff import hub
    from audiodiff.checkpoint import WEIGHTS, find_model, load_model, push_model, save_model
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
    config = parse_config(ModelConfig, change(values, settings), "--set")
    if str(target).startswith(hub.PREFIX):
        click.echo(push_model(str(target), network.state_dict(), config, half=half, private=private or None))
        return
    save_model(target, network.state_dict(), config, half=half)
    click.echo(f"{target}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB")
