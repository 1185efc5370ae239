"""`audiodiff prepare`: split a folder of recordings into train, valid and test manifests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiodiff.choices import FRACTION_BELOW_1, SEED, Number
from audiodiff.cli import options as opt
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.data.manifest import Scan


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
    with opt.warnings_logged(), opt.progress_bar(0) as bar:
        show = partial(opt.set_progress, bar)
        how = {"convert": convert if ffmpeg else None, "without": converted, "decode": not headers_only}
        scan = scan_folder(folder, workers, show, **how)
        return note_bandwidth(scan, workers, show) if bandwidth else scan


@click.command("prepare", cls=Verb)
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
) -> None:
    """Split the recordings of FOLDER into OUT_DIR/train.jsonl, valid.jsonl and test.jsonl.

    The split is by a hash of the path in FOLDER, so files that are added later do not move others; or by lists of
    names, one per line, with or without folders and extension. Files that cannot be read are reported and left out, and
    the exit code is then 1. Links are followed; hidden files and folders are not read.
    """
    from audiodiff.data.manifest import amount, write_manifest
    from audiodiff.data.splits import refuse_empty_training, split, split_by_names
    from audiodiff.errors import DataError

    recordings, unreadable = _scan(
        folder, out_dir, workers, ffmpeg=ffmpeg, bandwidth=bandwidth, headers_only=headers_only
    )
    for _, reason in unreadable:
        click.echo(f"left out: {reason}", err=True)
    if not recordings:
        raise DataError(f"{folder} holds no readable audio. Give a folder with recordings (wav, flac, ogg, mp3 ...).")
    if valid_list or test_list:
        parts = split_by_names(recordings, _names(valid_list), _names(test_list))
    else:
        parts = split(recordings, valid_fraction, test_fraction, seed, root=folder)
        refuse_empty_training(parts.counts, folder)
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
    if unreadable:
        click.echo(f"{len(unreadable)} of {len(unreadable) + len(recordings)} files could not be read", err=True)
        click.get_current_context().exit(1)
