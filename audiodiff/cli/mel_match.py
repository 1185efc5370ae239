"""`audiodiff mel-match`: which convention mels follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli import options as opt
from audiodiff.cli.progress import progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from audiodiff.audio.mel_candidates import Values
    from audiodiff.config import MelConfig

SHOWN = 4


@click.command(
    "mel-match",
    cls=Verb,
    examples=(
        "audiodiff mel-match mels/",
        "audiodiff mel-match a.npy --audio a.wav --output convention.yaml",
    ),
)
@click.argument("mels", nargs=-1, type=opt.EXISTING, metavar="MELS...")
@click.option("--list", "list_all", is_flag=True, help="List the conventions of the table, and who makes such mels.")
@click.option(
    "--audio",
    multiple=True,
    type=opt.EXISTING,
    metavar="WAVS",
    help="The recordings of the mels, or a folder with them, by the same names; may be repeated.",
)
@opt.model
@click.option("--output", type=opt.FILE, metavar="FILE", help="Write the likeliest as YAML, for --mel-convention.")
@opt.threads
def command(
    *, mels: tuple[Path, ...], list_all: bool, audio: tuple[Path, ...], model: str | None, output: Path | None
) -> None:
    """Name the conventions that mels likely follow, the likeliest first.

    MELS are .npy or .pt files of one toolkit, or folders of them. By their values alone, scale, floor and level tell
    most conventions apart; those that they do not are named together. Mean and standard deviation are estimated from
    what speech usually is, so the level may be off by some dB. With --audio each convention is applied to the recording
    and compared, and these are fitted exactly.
    """
    if list_all:
        click.echo("\n".join(_table()))
        return
    if not mels:
        raise click.UsageError("give mels, or --list.")
    from audiodiff.checkpoint import find_model, load_config
    from audiodiff.data.manifest import list_folder
    from audiodiff.data.mels import MEL_EXTENSIONS, load_mel

    config = load_config(find_model(model)).mel
    if config is None:
        raise click.UsageError("this model is not a vocoder, so it takes no mels. Give another --model.")
    paths = [file for path in mels for file in (list_folder(path, MEL_EXTENSIONS).files if path.is_dir() else [path])]
    values = [load_mel(path).float().numpy() for path in paths]
    fields = _by_audio(paths, values, audio, config) if audio else _by_values(values, config)
    if output is not None:
        import yaml

        from audiodiff.audio.io import replacing

        with replacing(output) as partial:
            partial.write_text(yaml.safe_dump(fields, sort_keys=False))
        click.echo(click.format_filename(output))


def _table() -> Iterator[str]:
    """Yield a line for each convention of the table."""
    from audiodiff.config.mel_conventions import PUBLISHED_CONVENTIONS

    for published in PUBLISHED_CONVENTIONS:
        mel, names = published.mel, ", ".join((published.mel.name, *published.aliases))
        yield f"{names}: {published.used_by}"
        logarithm = {"natural": "ln", "log10": "log10", "none": "linear"}[mel.log]
        yield (
            f"    {mel.sample_rate} Hz, hop {mel.hop_length}, window {mel.win_length}, {mel.n_mels} {mel.scale} bins "
            f"of {mel.f_min:g} to {mel.f_max:g} Hz, {logarithm} of {('magnitude', 'power')[mel.power - 1]}; "
            f"checked against the code of {published.checked}"
        )


def _by_values(mels: Sequence[Values], config: MelConfig) -> dict[str, Any]:
    """Print the ranking by values alone, and return the fields of the likeliest."""
    from audiodiff.audio.mel_fitting import fit_values
    from audiodiff.audio.mel_matching import evidence, likeliest, match_all

    with progress_bar(0, "comparing"):
        matches = match_all(mels, config)
    best = likeliest(matches)
    for found in matches[: max(SHOWN, len(best))]:
        turned = ", transposed" if found.transposed else ""
        behind = matches[0].score - found.score
        odds = "likeliest" if not behind else f"{behind:.1f} nats less likely"
        click.echo(f"{found.candidate.name}{turned}: {odds}; {evidence(mels[0], found)}")
    if len(best) > 1:
        click.echo(f"The first {len(best)} cannot be told apart by values alone. Give --audio.", err=True)
    with progress_bar(0, "fitting"):
        fields = fit_values(mels, best[0], config)
    if best[0].candidate.to_fit:
        click.echo("Mean and standard deviation are estimates from usual speech. --audio fits them.", err=True)
    return fields


def _by_audio(
    paths: Sequence[Path], mels: Sequence[Values], audio: Sequence[Path], config: MelConfig
) -> dict[str, Any]:
    """Print the ranking by agreement with recordings, and return the fields of the best."""
    from audiodiff.audio.mel_fitting import match_audio

    with progress_bar(0, "comparing"):
        matches = match_audio([(mel, *_recording(path, audio)) for path, mel in zip(paths, mels, strict=True)], config)
    for found in matches[:SHOWN]:
        late = f"; the mel is {found.shift:+d} frames late" if found.shift else ""
        click.echo(f"{found.name}: {found.error_db:.2f} dB from the mel of the audio{late}")
    return matches[0].fields


def _recording(mel: Path, audio: Sequence[Path]) -> tuple[Tensor, int]:
    """Return the audio `(time,)` and the rate of the recording of a mel: that of the same name, or the only one."""
    from audiodiff.audio.io import audio_info, load_audio
    from audiodiff.data.manifest import list_folder

    files = [file for path in audio for file in (list_folder(path).files if path.is_dir() else [path])]
    of_name = [file for file in files if file.stem == mel.stem] or (files if len(files) == 1 else [])
    if len(of_name) != 1:
        raise click.UsageError(f"{mel} has {len(of_name)} recordings of its name in --audio; it needs one.")
    return load_audio(of_name[0])[0], audio_info(of_name[0]).sample_rate
