"""`audiodiff export`: a trained model as a folder to share, on the Hugging Face hub, or as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, loading, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.config import ModelConfig
    from audiodiff.networks import Network


@click.command(
    "export",
    cls=Verb,
    examples=(
        "audiodiff export exp/vocoder/best my_vocoder/ --half",
        "audiodiff export exp/vocoder/best graphs/ --format onnx",
    ),
)
@click.argument("model", metavar="MODEL")
@click.argument("target", metavar="FOLDER|hub:OWNER/NAME", type=opt.FOLDER)
@click.option(
    "--format",
    "form",
    type=click.Choice(["folder", "onnx", "torch"]),
    default="folder",
    show_default=True,
    help="A model folder, ONNX files, or packages of torch.export (.pt2).",
)
@click.option("--half", is_flag=True, help="Store matrices in float16: half the size, no audible difference.")
@click.option(
    "--int8", is_flag=True, help="With --format onnx: write the pipeline with a network in int8 too, which is faster."
)
@click.option("--private", is_flag=True, help="Create the model on the hub as a private one.")
@click.option(
    "--provenance",
    metavar="FILE.yaml",
    type=opt.EXISTING_FILE,
    help="Facts to add to the model's provenance: data, licences, hours, scores.",
)
@opt.settings("synthesis.steps=4")
@opt.threads
def command(
    *,
    model: str,
    target: Path,
    form: str,
    half: bool,
    int8: bool,
    private: bool,
    provenance: Path | None,
    settings: dict[str, object],
) -> None:
    """Export MODEL, such as the `best` of a run, to a folder or, with a model card, to the Hugging Face hub.

    --format onnx and torch write two graphs, of dynamic batch and length: `pipeline`, from mel (or label) and noise to
    the waveform, with the start, all steps and the colouring inside, and `step`, one network call. Both are compared
    with PyTorch; the largest difference is printed, and above 1e-4, int8 aside, it is an error. `run_onnx.py` beside
    them makes audio with numpy and onnxruntime alone; the same seed gives what `audiodiff vocode` makes.
    """
    from audiodiff import hub
    from audiodiff.checkpoint import find_model, load_model, push_model
    from audiodiff.config import ModelConfig, change, parse_config
    from audiodiff.errors import ConfigError
    from audiodiff.text import read_yaml

    if int8 and form != "onnx":
        raise click.UsageError("--int8 is for --format onnx.")
    if form != "folder":
        _check_graph_options(form, half or private or provenance is not None or str(target).startswith(hub.PREFIX))
    with loading(model):
        network, config = load_model(find_model(model))
    values = config.model_dump(mode="json")
    if provenance is not None:
        notes = read_yaml(provenance, ConfigError)
        if not isinstance(notes, dict):
            raise ConfigError(f"{provenance} is not a mapping. Give it keys such as data and licence.")
        values["provenance"] = values["provenance"] | notes
    config = parse_config(ModelConfig, change(values, settings), "--set")
    if str(target).startswith(hub.PREFIX):
        with progress_bar(0, "sending"):
            address = push_model(str(target), network.state_dict(), config, half=half, private=private or None)
        click.echo(address)
        return
    if form == "folder":
        _save(target, network, config, half)
    else:
        _save_graphs(target, network, config, form, Path(model).name, int8=int8)


def _check_graph_options(form: str, has_others: bool) -> None:
    if has_others:
        raise click.UsageError("--half, --private, --provenance and the hub are for --format folder.")
    from audiodiff.interop.export import check_packages

    check_packages(form)


def _save(folder: Path, network: Network, config: ModelConfig, half: bool) -> None:
    from audiodiff.checkpoint import WEIGHTS, save_model

    save_model(folder, network.state_dict(), config, half=half)
    click.echo(f"{folder}: {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB")


def _save_graphs(folder: Path, network: Network, config: ModelConfig, form: str, name: str, *, int8: bool) -> None:
    from audiodiff.interop.export import export_graphs
    from audiodiff.pipelines import Generator, Vocoder

    pipeline = (Vocoder if config.mel else Generator)(network, config, "fp32")
    with progress_bar(0, "exporting"):
        for path, difference in export_graphs(pipeline, folder, form, name, int8=int8):
            size = path.stat().st_size / 1e6
            with above_the_line():
                click.echo(f"{path}: {size:.1f} MB, differs from PyTorch by at most {difference:.1g}")
