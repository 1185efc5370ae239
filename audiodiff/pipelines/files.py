"""Files in and out of batch work: which file becomes which, and reading recordings and mels for a model."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from audiodiff.audio.io import AUDIO_EXTENSIONS, LARGE_DC, AudioInfo, audio_info, load_audio
from audiodiff.data.manifest import Recording, find_audio, read_manifest
from audiodiff.data.mels import MEL_EXTENSIONS, OTHER_MELS, SAVE_MEL
from audiodiff.errors import AudiodiffError, AudioError, ConfigError, DataError, MelError, explain_os_error

_OUTPUT_EXTENSIONS = (".wav", ".flac")
_DEPTHS = {
    **dict.fromkeys(("PCM_24", "ALAC_20", "ALAC_24"), "PCM_24"),
    **dict.fromkeys(("PCM_32", "ALAC_32"), "PCM_32"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "FLOAT"),
}
"""Encodings of recordings with more than 16 bits, and what keeps them."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One file to make.

    Attributes:
        source: The recording or mel it is made from.
        target: The audio file to write.
        recording: Where a manifest names a mel beside the source: its line of the manifest.
    """

    source: Path
    target: Path
    recording: Recording | None = None

    @property
    def is_mel(self) -> bool:
        """Whether the source is a mel spectrogram, judged by its extension."""
        return self.source.suffix.lower() in MEL_EXTENSIONS


def collect_jobs(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Pair input files with output files.

    Args:
        inputs: Audio files, mels, folders of both, and manifests. A missing file is reported when it is read.
        output: A folder, in which the subfolders of input folders are kept; or a .wav or .flac file for one input file.

    Returns:
        One job per input file, in the order of the inputs.

    Raises:
        ConfigError: If `output` cannot take these inputs.
        DataError: If a folder or manifest holds no audio and no mels, two inputs have the same target, or a target is
            an input.
    """
    if _is_file_name(output, inputs):
        jobs = [Job(inputs[0], output)]
    else:
        found = (job for item in inputs for job in _expand(item, output))
        jobs = list(dict.fromkeys(replace(job, target=job.target.with_suffix(".wav")) for job in found))
    _check_targets(jobs)
    return jobs


def _is_file_name(output: Path, inputs: Sequence[Path]) -> bool:
    """Tell whether the output is meant as a file, and refuse it where it can be neither file nor folder."""
    suffix = output.suffix.lower()
    if output.is_dir():
        return False
    if suffix in _OUTPUT_EXTENSIONS:
        if len(inputs) == 1 and not inputs[0].is_dir() and inputs[0].suffix != ".jsonl":
            return True
        raise ConfigError(f"output {output} is one file, but there may be several inputs. Give a folder.")
    if suffix in AUDIO_EXTENSIONS:
        raise ConfigError(f"output {output}: only .wav and .flac can be written. Give one of these, or a folder.")
    if output.exists():
        raise ConfigError(f"output {output} is a file; expected a folder, or a new .wav or .flac file.")
    return False


def _expand(item: Path, output: Path) -> Iterator[Job]:
    """Yield each file of an input, its target with the extension of the input."""
    if item.suffix == ".jsonl" and item.is_file():
        recordings = read_manifest(item)
        if not recordings:
            raise DataError(f"{item} lists no recordings. `audiodiff prepare` writes manifests.")
        for recording in recordings:
            yield Job(recording.audio, output / recording.audio.name, recording if recording.mel else None)
        return
    if not item.is_dir():
        yield Job(item, output / item.name)
        return
    found = find_audio(item, AUDIO_EXTENSIONS + MEL_EXTENSIONS)
    inside, outputs = _real(item), _real(output)
    if inside in outputs.parents:  # results of an earlier run are not inputs
        earlier = [path for path in found if outputs in _real(path).parents]
        if earlier:
            _LOG.info("left out as results of earlier runs: %d in %s", len(earlier), output)
            found = [path for path in found if path not in earlier]
    if not found:
        others = sorted(path for path in item.rglob("*") if path.suffix.lower() in OTHER_MELS)
        hint = f"Is {others[0].name} a mel? {SAVE_MEL}" if others else "Check the folder."
        raise DataError(f"{item} holds no audio and no mels (.npy, .pt). {hint}")
    for path in found:
        yield Job(path, output / path.relative_to(item))


def _real(path: Path) -> Path:
    """Follow links; `Path.resolve` raises an error at one that leads back to itself."""
    return Path(os.path.realpath(path))


def _check_targets(jobs: Iterable[Job]) -> None:
    source_of: dict[Path, Path] = {}
    for job in jobs:
        source = job.recording.mel if job.recording and job.recording.mel else job.source
        other = source_of.setdefault(_real(job.target), source)
        if other != source:
            raise DataError(
                f"{other} and {source} would both become {job.target}. Rename one, or give them different outputs."
            )
    for job in jobs:
        if _real(job.source) in source_of:
            raise DataError(f"{job.source} would be overwritten. Choose another output.")


def load_recording(path: Path, sample_rate: int, *, resample: bool = False) -> Tensor:
    """Read a recording at the rate of a model.

    Args:
        path: The file.
        sample_rate: The model's, in Hz.
        resample: Whether a recording at another rate is resampled; if not, it is refused.

    Returns:
        Samples `(channels, time)`.

    Raises:
        AudioError: If the recording cannot be read, or has another rate.
        MelError: If it looks like a mel in another format.
    """
    if path.suffix.lower() in OTHER_MELS:
        raise MelError(f"{path} is no mel that is read here: expected .npy, or .pt with one tensor. {SAVE_MEL}")
    rate = audio_info(path).sample_rate
    if rate != sample_rate and not resample:
        raise AudioError(f"{path} is {rate} Hz; this model needs {sample_rate} Hz. Use --resample.")
    return load_audio(path, sample_rate=sample_rate, mono=False)


def same_depth(source: AudioInfo | None, target: Path) -> str:
    """Return the encoding that keeps the bit depth of a recording: 16 bits at least, 24 at most in FLAC.

    Args:
        source: The recording; None, as of a mel, is 16 bits.
        target: The file to write.
    """
    subtype = _DEPTHS.get(source.subtype, "PCM_16") if source else "PCM_16"
    return "PCM_24" if target.suffix.lower() == ".flac" and subtype != "PCM_16" else subtype


def name_channels(n_channels: int) -> str:
    """Return `mono`, `stereo`, or how many channels there are."""
    return {1: "mono", 2: "stereo"}.get(n_channels, f"{n_channels} channels")


def describe(source: AudioInfo | None, sample_rate: int, subtype: str) -> str:
    """Say what became of a recording, or of a mel: `44,100 → 22,050 Hz, stereo, 24 bit`."""
    width = name_channels(source.channels if source else 1)
    before = "mel → " if source is None else f"{source.sample_rate:,} → " if source.sample_rate != sample_rate else ""
    floating = {"FLOAT": "32 bit float", "DOUBLE": "64 bit float"}
    depth = floating.get(subtype) or f"{subtype.removeprefix('PCM_')} bit"
    return f"{before}{sample_rate:,} Hz, {width}, {depth}"


def remove_dc_offset(audio: Tensor, path: Path) -> Tensor:
    """Remove a large DC offset, with a warning: in a mel it looks like rumble, and rumble would be made of it."""
    offset = audio.mean(-1, keepdim=True)
    if float(offset.abs().max()) <= LARGE_DC:
        return audio
    warnings.warn(
        f"{path} has a DC offset of {float(offset.abs().max()):.3f}, which is removed before its mel is computed.",
        stacklevel=2,
    )
    return audio - offset


def explain_failure(path: Path, error: Exception) -> str:
    """Return the reason why a file could not be processed, in one line that names the file."""
    _LOG.debug("%s failed", path, exc_info=error)
    message = str(error) if isinstance(error, AudiodiffError) else f"unexpected {type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        message = explain_os_error(error)
    message = " ".join(message.split())
    return message if str(path) in message else f"{path}: {message}"
