"""Which files a verb is to work on, and where the result of each goes: decided before any work begins."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from audiodiff.errors import DataError

MEL_EXTENSIONS = (".npy", ".pt")
_OUTPUT_EXTENSIONS = (".wav", ".flac")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One file to make.

    Attributes:
        source: The recording or mel it is made from.
        target: The audio file to write.
    """

    source: Path
    target: Path

    @property
    def is_mel(self) -> bool:
        """Whether the source is a mel spectrogram, told by its extension."""
        return self.source.suffix.lower() in MEL_EXTENSIONS

    @property
    def picture(self) -> Path:
        """Where a picture of the result goes."""
        return self.target.with_suffix(".png")


def collect_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Match inputs with targets.

    Args:
        inputs: Audio files, mels, folders of both, and manifests; what does not exist is left to fail on its own later.
        output: A folder, in which the subfolders of input folders are kept; or a .wav or .flac file for one input file.

    Returns:
        One job per input file, in the order of the inputs.

    Raises:
        click.UsageError: If `output` cannot take these inputs.
        DataError: If a folder holds nothing to work on, two inputs have one target, or a target is an input.
    """
    if _names_a_file(inputs, output):
        jobs = [Job(inputs[0], output)]
    else:
        found = ((source, name) for item in inputs for source, name in _expand(item, output))
        jobs = list(dict.fromkeys(Job(source, (output / name).with_suffix(".wav")) for source, name in found))
    _check_targets(jobs)
    return jobs


def _names_a_file(inputs: Sequence[Path], output: Path) -> bool:
    """Tell whether the output is meant as a file, and refuse it where it can be neither file nor folder."""
    from audiodiff.audio.io import AUDIO_EXTENSIONS

    suffix = output.suffix.lower()
    if output.is_dir():
        return False
    if suffix in _OUTPUT_EXTENSIONS:
        if len(inputs) == 1 and not inputs[0].is_dir() and inputs[0].suffix != ".jsonl":
            return True
        raise click.UsageError(f"--output {output} names one file, but there are more inputs. Give a folder.")
    if suffix in AUDIO_EXTENSIONS:
        raise click.UsageError(
            f"--output {output}: files are written as .wav or .flac. Give one of these, or a folder."
        )
    if output.exists():
        raise click.UsageError(f"--output {output} is a file; expected a folder, or a new .wav or .flac file.")
    return False


def _expand(item: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each file of an input with the name its target has within the output folder."""
    from audiodiff.audio.io import find_audio

    if item.suffix == ".jsonl" and item.is_file():
        from audiodiff.data.manifest import read_manifest

        yield from ((recording.audio, Path(recording.audio.name)) for recording in read_manifest(item))
        return
    if not item.is_dir():
        yield item, Path(item.name)
        return
    mels = (path for path in item.rglob("*") if path.suffix.lower() in MEL_EXTENSIONS and path.is_file())
    found = sorted({*find_audio(item), *(path for path in mels if not path.name.startswith("."))})
    inside, outputs = item.resolve(), output.resolve()
    if inside in outputs.parents:  # results of an earlier run are no inputs
        earlier = [path for path in found if outputs in path.resolve().parents]
        if earlier:
            _LOG.info("left out as results of earlier runs: %d in %s", len(earlier), output)
            found = [path for path in found if path not in earlier]
    if not found:
        raise DataError(f"{item} holds no audio and no mels (.npy, .pt). Check the folder.")
    for path in found:
        yield path, path.relative_to(item)


def _check_targets(jobs: Iterable[Job]) -> None:
    source_of: dict[Path, Path] = {}
    for job in jobs:
        other = source_of.setdefault(job.target.resolve(), job.source)
        if other != job.source:
            raise DataError(
                f"{other} and {job.source} would both become {job.target}. Rename one, or give them different outputs."
            )
    for job in jobs:
        if job.source.resolve() in source_of:
            raise DataError(f"{job.source} would be overwritten. Choose another --output.")
