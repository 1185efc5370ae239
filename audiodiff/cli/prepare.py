"""`audiodiff prepare`: split a folder of recordings into train, valid and test manifests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiodiff.choices import FRACTION_BELOW_1, SEED, Number
from audiodiff.cli import options as opt
from audiodiff.cli.progress import progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiodiff.data.manifest import Scan
    from audiodiff.data.splits import Split


def _names(path: Path | None) -> list[str]:
    from audiodiff.errors import DataError
    from audiodiff.text import read_lines

    names = [line for _, line in read_lines(path)] if path else []
    if path and not names:
        raise DataError(f"{path} lists no names. Write one per line, or leave it out.")
    return names


def _scan(
    folder: Path, out_dir: Path, workers: int | None, *, ffmpeg: bool, bandwidth: bool, headers_only: bool
) -> Scan:
    """Read all files of a folder, with a bar."""
    from audiodiff.data.features import decode_with_ffmpeg
    from audiodiff.data.manifest import scan_folder
    from audiodiff.data.measure import note_bandwidth
    from audiodiff.data.parallel import default_workers

    converted = out_dir / "converted"

    def convert(path: Path) -> Path:
        kind = path.suffix.lower().removeprefix(".") or "other"  # files that differ in their extension alone
        return decode_with_ffmpeg(path, converted / kind / path.relative_to(folder).with_suffix(".flac"))

    workers = workers or default_workers()
    with opt.warnings_logged(), progress_bar(0, "reading") as bar:
        read = partial(scan_folder, without=converted, decode=not headers_only)
        scan = read(folder, workers, bar.set, convert=convert if ffmpeg else None)
        return note_bandwidth(scan, workers, bar.set) if bandwidth else scan


def _with_mels(scan: Scan, folder: Path, out_dir: Path, mels: Path, convention: str, workers: int | None) -> Scan:
    """Give recordings the mels of their names, and leave out those without; say what has no partner."""
    from audiodiff.audio.mel_convention_files import named_convention
    from audiodiff.data.manifest import Scan
    from audiodiff.data.mels import pair_mels, unfit_mels
    from audiodiff.data.parallel import default_workers

    config, converted = named_convention(convention), out_dir / "converted"
    if convention.endswith((".yaml", ".yml")):
        convention = str(Path(convention).absolute())

    def name(path: Path) -> Path:
        if converted in path.parents:
            return Path(*path.relative_to(converted).parts[1:])
        return path.relative_to(folder)

    pairing = pair_mels({name(recording.audio): recording for recording in scan.recordings}, mels, convention)
    if pairing.without:
        _count([recording.audio for recording in pairing.without], f"recordings are left out, without a mel in {mels}")
    if pairing.left_over:
        _count(pairing.left_over, f"mels have no recording in {folder}")
    with progress_bar(len(pairing.recordings), "reading mels") as bar:
        unfit = unfit_mels(pairing.recordings, config, workers or default_workers(), bar.update)
    bad = {recording.audio for recording, _ in unfit}
    unreadable = [*scan.unreadable, *((recording.audio, reason) for recording, reason in unfit)]
    return Scan([recording for recording in pairing.recordings if recording.audio not in bad], unreadable)


def _write(parts: Split, out_dir: Path, shards: int | None) -> None:
    """Write manifests, and shards if any, and print what is in them."""
    from audiodiff.data.manifest import amount, write_manifest

    for name, part in parts._asdict().items():
        path = out_dir / f"{name}.jsonl"
        write_manifest(path, part)
        seconds = sum(recording.seconds for recording in part)
        click.echo(f"{path}: {amount(len(part), seconds)}")
    if shards:
        from audiodiff.data.shards import write_shards

        index = out_dir / "train.shards.json"
        n_bytes = sum(path.stat().st_size for path in write_shards(parts.train, index, shards))
        click.echo(f"{index}: {shards} shards, {n_bytes / 1e6:.1f} MB")


def _count(paths: Sequence[Path], words: str) -> None:
    named = ", ".join(click.format_filename(path) for path in paths[:3])
    click.echo(f"{len(paths)} {words} ({named}{', ...' if len(paths) > 3 else ''})", err=True)


@click.command(
    "prepare",
    cls=Verb,
    examples=(
        "audiodiff prepare recordings/ data/",
        "audiodiff doctor data/",
    ),
)
@click.argument("folder", metavar="FOLDER", type=opt.EXISTING_FOLDER)
@click.argument("out_dir", metavar="OUT_DIR", type=opt.FOLDER)
@click.option(
    "--valid-fraction",
    metavar="FRACTION",
    type=FRACTION_BELOW_1,
    default=0.05,
    show_default=True,
    help="Fraction of the recordings for validation.",
)
@click.option(
    "--test-fraction",
    metavar="FRACTION",
    type=FRACTION_BELOW_1,
    default=0.05,
    show_default=True,
    help="Fraction of the recordings for the test set.",
)
@click.option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed of the split.")
@click.option("--ffmpeg", is_flag=True, help="Convert m4a, mp4, webm and the like by ffmpeg, to OUT_DIR/converted.")
@click.option("--mels", metavar="FOLDER", type=opt.EXISTING_FOLDER, help="Mels (.npy, .pt) named as the recordings.")
@opt.expert(
    "--mel-convention",
    metavar="NAME|FILE.yaml",
    help="What --mels follow, such as vocos-24k, or a file as of `audiodiff vocode`.  [default: hifigan-22k]",
)
@opt.expert("--valid-list", metavar="FILE", type=opt.EXISTING_FILE, help="Names of the validation recordings.")
@opt.expert("--test-list", metavar="FILE", type=opt.EXISTING_FILE, help="Names of the test recordings.")
@opt.expert("--bandwidth", is_flag=True, help="Measure the bandwidth of each recording and store it in the manifest.")
@opt.expert(
    "--headers-only", is_flag=True, help="Decode nothing, which is faster; damage within a file is found in training."
)
@opt.expert(
    "--shards",
    metavar="N",
    type=Number(int, low=1, high=100_000, unit="shards"),
    help="Also pack the training set into N WebDataset shards and OUT_DIR/train.shards.json.",
)
@opt.workers
def command(
    *,
    folder: Path,
    out_dir: Path,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    valid_list: Path | None,
    test_list: Path | None,
    ffmpeg: bool,
    bandwidth: bool,
    headers_only: bool,
    workers: int | None,
    shards: int | None,
    mels: Path | None,
    mel_convention: str | None,
) -> None:
    """Split the recordings of FOLDER into OUT_DIR/train.jsonl, valid.jsonl and test.jsonl.

    The split is by a hash of the path in FOLDER, so files that are added later do not move others; or by lists of
    names, one per line, with or without folders and extension. Files that cannot be read are reported and left out, and
    the exit code is then 1. Links are followed; hidden files and folders are not read.

    With --mels, a recording a/b.wav is paired with FOLDER/a/b.npy, which training and `audiodiff vocode` then take
    instead of computing a mel. Its convention and its number of frames are checked; recordings without a mel are left
    out.
    """
    if mel_convention and not mels:
        raise click.UsageError("--mel-convention says what --mels follow. Give --mels, or leave it out.")
    from audiodiff.data.mels import DEFAULT_CONVENTION
    from audiodiff.data.splits import refuse_empty_training, split, split_by_names
    from audiodiff.errors import DataError

    scan = _scan(folder, out_dir, workers, ffmpeg=ffmpeg, bandwidth=bandwidth, headers_only=headers_only)
    if mels and scan.recordings:
        scan = _with_mels(scan, folder, out_dir, mels, mel_convention or DEFAULT_CONVENTION, workers)
    recordings, unreadable = scan
    for _, reason in unreadable:
        click.echo(f"left out: {reason}", err=True)
    if not recordings and mels:
        raise DataError(f"no recording in {folder} has a mel in {mels} that fits it: see above.")
    if not recordings:
        raise DataError(f"{folder} holds no readable audio. Give a folder with recordings (wav, flac, ogg, mp3 ...).")
    if valid_list or test_list:
        parts = split_by_names(recordings, _names(valid_list), _names(test_list))
    else:
        parts = split(recordings, valid_fraction, test_fraction, seed, root=folder)
        refuse_empty_training(parts.counts, folder)
    _write(parts, out_dir, shards)
    if unreadable:
        n_files = len(unreadable) + len(recordings)
        click.echo(f"{len(unreadable)} of {n_files} files could not be {'used' if mels else 'read'}", err=True)
        click.get_current_context().exit(1)
