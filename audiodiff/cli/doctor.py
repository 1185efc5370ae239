"""`audiodiff doctor`: check recordings before training on them."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.choices import SECONDS
from audiodiff.cli import options as opt
from audiodiff.cli.progress import loading, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.data.doctor import Finding, Report, Source

_NAMED = 3
"""How many files a line names before it only counts."""


@click.command(
    "doctor",
    cls=Verb,
    examples=(
        "audiodiff doctor recordings/",
        "audiodiff doctor data/train.jsonl data/valid.jsonl data/test.jsonl",
    ),
)
@click.argument("data", nargs=-1, required=True, metavar="DATA...", type=opt.EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with all file names.")
@opt.expert(
    "--crop-seconds",
    type=SECONDS,
    default=0.75,
    show_default=True,
    metavar="SECONDS",
    help="Length of a training crop (data.crop_seconds).",
)
@opt.workers
def command(*, data: tuple[Path, ...], crop_seconds: float, workers: int | None, as_json: bool) -> None:
    """Check recordings before training on them.

    DATA are manifests (.jsonl), folders of manifests, or folders of recordings. Give train, valid and test together to
    check for overlap. The exit code is 1 if something must be fixed.
    """
    from audiodiff.data.doctor import examine
    from audiodiff.data.parallel import default_workers
    from audiodiff.text import printable_json

    workers = workers or default_workers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what the library warns of is among the findings
        with loading("the recordings"):
            sources = [source for path in data for source in _open(path, workers)]
        recordings = [recording for source in sources for recording in source.recordings]
        total = len({recording.audio for recording in recordings}) + sum(bool(one.mel) for one in recordings)
        with progress_bar(total, "examining") as bar:
            report = examine(sources, crop_seconds, workers, bar.update)
    click.echo(printable_json(_facts(report)) if as_json else "\n".join(_lines(report)))
    if report.is_error:
        click.get_current_context().exit(1)


def _open(path: Path, workers: int) -> Iterator[Source]:
    """Yield what a path holds: a manifest, the manifests of a folder, or its recordings."""
    from audiodiff.data.doctor import Source
    from audiodiff.data.manifest import read_manifest, scan_folder
    from audiodiff.errors import DataError

    if path.is_file() and path.suffix != ".jsonl":
        raise DataError(f"{path} is neither a manifest (.jsonl) nor a folder. Give its folder, or a manifest.")
    manifests = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    for manifest in manifests:
        yield Source(manifest.stem, read_manifest(manifest))
    if not manifests:
        scan = scan_folder(path, workers)
        if not (scan.recordings or scan.unreadable):
            raise DataError(f"{path} holds no manifest and no audio. Give a folder with recordings, or manifests.")
        yield Source(path.resolve().name, scan.recordings, scan.unreadable)


def _facts(report: Report) -> dict[str, Any]:
    return {
        "recordings": len(report.examined),
        "hours": sum(one.measured.seconds for one in report.examined) / 3600,
        "parts": dict(Counter(one.part for one in report.examined)),
        "sample_rates_hz": dict(Counter(one.measured.sample_rate for one in report.examined).most_common()),
        "is_error": report.is_error,
        "findings": [
            {
                "check": finding.check,
                "is_error": finding.is_error,
                "found": finding.found,
                "advice": finding.advice,
                "files": list(finding.files),
            }
            for finding in report.findings
        ],
    }


def _lines(report: Report) -> Iterator[str]:
    from audiodiff.data.manifest import amount

    facts = _facts(report)
    parts = ", ".join(f"{part} {count}" for part, count in facts["parts"].items())
    yield f"{amount(facts['recordings'], 3600 * facts['hours'])} ({parts or 'none can be read'})"
    if report.examined:
        yield f"rates {_spread([one.measured.sample_rate for one in report.examined], 'Hz', 0)}"
        yield f"lengths {_spread([one.measured.seconds for one in report.examined], 's', 2)}"
        levels = [one.measured.level for one in report.examined if one.measured.level is not None]
        yield f"levels {_spread(levels, 'dB', 1)}"
    for finding in report.findings:
        yield from _explain(finding)
    if not report.findings:
        yield "nothing found"


def _spread(values: Sequence[float], unit: str, digits: int) -> str:
    if not values:
        return "none"
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}, median {middle} {unit}"


def _explain(finding: Finding) -> Iterator[str]:
    yield f"{'ERROR' if finding.is_error else 'WARNING'}  {finding.check}: {finding.found}"
    yield f"      {finding.advice}"
    if finding.files:
        more = f" and {len(finding.files) - _NAMED} more" if len(finding.files) > _NAMED else ""
        yield f"      {', '.join(finding.files[:_NAMED])}{more}"
