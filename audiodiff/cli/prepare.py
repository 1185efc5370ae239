"""`audiodiff prepare`: list a folder of recordings in train, valid and test manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from audiodiff.data.manifest import Scan

LIST = click.Path(exists=True, dir_okay=False, path_type=Path)


def _names(path: Path | None) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path else []


def _scan(folder: Path, workers: int | None, *, bandwidth: bool) -> Scan:
    """Read the headers of all files of a folder, or if need be their samples too, with a bar."""
    from audiodiff.cli.options import progress_bar
    from audiodiff.data.manifest import scan_folder
    from audiodiff.data.measure import note_bandwidth
    from audiodiff.data.parallel import default_workers

    workers = workers or default_workers()
    with progress_bar(0) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        scan = scan_folder(folder, workers, show)
        return note_bandwidth(scan, workers, show) if bandwidth else scan


@click.command("prepare")
@click.argument("folder", metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out_dir", metavar="OUT_DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--valid-fraction",
    metavar="FRACTION",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of the recordings to validate on, 0 to 1.",
)
@click.option(
    "--test-fraction",
    metavar="FRACTION",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of the recordings to keep for tests, 0 to 1.",
)
@click.option(
    "--seed", metavar="INTEGER", type=int, default=0, show_default=True, help="Another seed, another division."
)
@click.option("--valid-list", metavar="FILE", type=LIST, help="Validate on the recordings of this list, no others.")
@click.option("--test-list", metavar="FILE", type=LIST, help="Keep the recordings of this list for tests, no others.")
@click.option("--bandwidth", is_flag=True, help="Measure the true bandwidth of each recording, and note it.")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Files at a time.  [default: one per processor]"
)
@click.option(
    "--shards",
    metavar="N",
    type=click.IntRange(min=1),
    help="Also pack the training part into N tar files and OUT_DIR/train.shards.json, which training reads too.",
)
def command(
    *,
    folder: Path,
    out_dir: Path,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    valid_list: Path | None,
    test_list: Path | None,
    bandwidth: bool,
    workers: int | None,
    shards: int | None,
) -> None:
    """List the recordings of FOLDER in OUT_DIR/train.jsonl, valid.jsonl and test.jsonl.

    Which recording goes where depends on its path in FOLDER alone, so files that are added later do not move others; or
    it is what the lists say, if one is given: a file name without folder and extension per line. Files that cannot be
    read are named and left out; the exit code is then 1.
    """
    from audiodiff.data.manifest import write_manifest
    from audiodiff.data.splits import split, split_by_names
    from audiodiff.errors import DataError

    recordings, unreadable = _scan(folder, workers, bandwidth=bandwidth)
    for _, reason in unreadable:
        click.echo(f"left out: {reason}", err=True)
    if not recordings:
        raise DataError(f"{folder} holds no readable audio. Give a folder with recordings (wav, flac, ogg, mp3 ...).")
    if valid_list or test_list:
        parts = split_by_names(recordings, _names(valid_list), _names(test_list))
    else:
        parts = split(recordings, valid_fraction, test_fraction, seed, root=folder)
    for name, part in parts._asdict().items():
        path = out_dir / f"{name}.jsonl"
        write_manifest(path, part)
        hours = sum(recording.seconds for recording in part) / 3600
        click.echo(f"{path}: {len(part)} recordings, {hours:.2f} hours")
    if shards:
        from audiodiff.data.shards import write_shards

        index = out_dir / "train.shards.json"
        n_bytes = sum(path.stat().st_size for path in write_shards(parts.train, index, shards))
        click.echo(f"{index}: {shards} shards, {n_bytes / 1e6:.1f} MB")
    if unreadable:
        click.echo(f"{len(unreadable)} of {len(unreadable) + len(recordings)} files could not be read", err=True)
        click.get_current_context().exit(1)
