"""`audiodiff convert`: a checkpoint of another project into a model folder."""

from __future__ import annotations

from pathlib import Path

import click

from audiodiff.choices import DILATION_CYCLE, SAMPLE_RATE, Number, Numbers
from audiodiff.cli import options as opt
from audiodiff.cli.progress import loading
from audiodiff.cli.verbs import Verb

_BETA = Number(float, above=0, below=1)


@click.command(
    "convert",
    cls=Verb,
    examples=(
        "audiodiff convert weights.pt my_vocoder/",
        "audiodiff vocode recording.wav -o out.wav --model my_vocoder/ --clamp",
    ),
)
@click.argument("checkpoint", metavar="CHECKPOINT", type=opt.PATH)
@click.argument("folder", metavar="FOLDER", type=opt.FOLDER)
@click.option(
    "--from",
    "project",
    type=click.Choice(["auto", "lmnt", "philsyn"]),
    default="auto",
    show_default=True,
    help="Project of the checkpoint; auto judges by the names of its tensors.",
)
@opt.expert("--sample-rate", type=SAMPLE_RATE, metavar="HZ", help="Sample rate, where the file does not say.")
@opt.expert(
    "--dilation-cycle", type=DILATION_CYCLE, metavar="N", help="Layers per dilation cycle, where the file does not say."
)
@opt.expert(
    "--betas",
    type=Numbers(_BETA, _BETA, Number(int, low=2, high=10_000), mark=":", example="1e-4:0.05:50"),
    metavar="FIRST:LAST:COUNT",
    help="Linear beta schedule it was trained with, such as 1e-4:0.05:50, where the file does not say.",
)
@opt.threads
def command(
    *,
    checkpoint: Path,
    folder: Path,
    project: str,
    sample_rate: int | None,
    dilation_cycle: int | None,
    betas: tuple[float, float, int] | None,
) -> None:
    """Convert CHECKPOINT of another project into a model FOLDER that computes the same.

    \b
    project                         file         becomes
    lmnt-com/diffwave               weights.pt   vocoder, or generator if unconditional
    philsyn/DiffWave-Vocoder        1000000.pkl  vocoder
    philsyn/DiffWave-unconditional  1000000.pkl  generator of one-second clips

    Weights, dilations, step embedding, mel convention, noise schedule (for fine-tuning too) and fast sampling are kept.
    What a file does not say is taken from the options, or as published, which is logged. Pickled code is refused and
    never run. The inference of lmnt-com/diffwave clamps after every step: `vocode --clamp` does the same.
    """  # noqa: D301  (click's mark for lines that are not to be rewrapped)
    from audiodiff.checkpoint import WEIGHTS, save_model
    from audiodiff.interop import CheckpointMetadata, convert_checkpoint
    from audiodiff.interop.foreign import linear_betas

    process = None if betas is None else linear_betas(betas[1], betas[2], first=betas[0])
    metadata = CheckpointMetadata(sample_rate, dilation_cycle, process)
    with loading(checkpoint.name):
        network, config = convert_checkpoint(checkpoint, None if project == "auto" else project, metadata)
    save_model(folder, network.state_dict(), config)
    kind = f"vocoder for {config.mel.name} mels" if config.mel else "generator"
    shape = f"{config.network.channels} channels, {config.network.layers} layers, {config.sample_rate} Hz"
    size = (folder / WEIGHTS).stat().st_size / 1e6
    click.echo(f"{folder}: {kind} of {config.provenance['project']}, {shape}, {size:.1f} MB")
