"""`prepare`, `doctor` and training agree on every odd file: its length to the sample, or why it is refused."""

from __future__ import annotations

import io
import re
import sys
import warnings
from pathlib import Path

import pytest
import soundfile
import torch

from audiodiff.audio import decoding
from audiodiff.audio.io import audio_info, load_audio
from audiodiff.data.crops import CropReader
from audiodiff.data.doctor import Source, examine
from audiodiff.data.manifest import Recording, find_audio, read_manifest, scan_folder, write_manifest
from audiodiff.errors import AudioError

sys.path.append(str(Path(__file__).parents[1]))
from audio_zoo import RATE, Specimen, zoo

CROP = 1024

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Specimen]:
    folder = tmp_path_factory.mktemp("zoo")
    found = {folder / (re.sub(r"\W", "_", name) + one.suffix): one for name, one in zoo().items()}
    for path, one in found.items():
        path.write_bytes(one.content)
    return found


def trained_on(recording: Recording) -> tuple[int, str]:
    """Return how many samples training reads of a recording, and what is wrong with its first, last and other crops."""
    reader = CropReader(recording.sample_rate, CROP)
    (whole,) = reader.read_whole(recording)
    n_samples = len(whole.samples) - 2 * whole.overhang
    for position in (0, 0.3, 0.8, 0.999999):
        first = int(position * (n_samples - CROP + 1))
        difference = reader.read(recording, position).audio - whole.samples[first : first + CROP]
        if difference.abs().max() > 1e-6:
            return n_samples, f"the crop at {first} is another"
    return n_samples, ""


def test_prepare_doctor_and_training_agree_to_the_sample(specimens: dict[Path, Specimen], tmp_path: Path) -> None:
    decoding._KNOWN.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scan = scan_folder(next(iter(specimens)).parent, decode=True)
    notes = " ".join(str(warning.message) for warning in said)
    refused = {path: reason for path, reason in scan.unreadable}
    write_manifest(tmp_path / "all.jsonl", scan.recordings)
    prepared = {one.audio.name: one for one in read_manifest(tmp_path / "all.jsonl")}
    decoding._KNOWN.clear()  # training is another process
    report = examine([Source("all", scan.recordings)], 0.1)
    measured = {one.recording.audio: one.measured.n_samples for one in report.examined}
    assert not {"unreadable", "changed"} & {finding.check for finding in report.findings}
    problems = []
    for path, one in specimens.items():
        if path not in {*refused, *measured}:  # no extension that is searched for
            continue
        if one.refused:
            if not re.search(one.refused, refused.get(path, "")):
                problems.append(f"{path.name} is not refused as it should be: {refused.get(path)}")
            continue
        if path in refused:
            problems.append(refused[path])
            continue
        decoding._KNOWN.clear()
        trained, wrong = trained_on(prepared[path.name])
        lengths = {"prepare": prepared[path.name].n_samples, "doctor": measured[path], "training": trained}
        if one.n_samples:
            lengths["truth"] = one.n_samples
        if len(set(lengths.values())) > 1 or wrong:
            problems.append(f"{path.name}: {lengths} {wrong}")
        if bool(one.note) != (str(path) in notes) or one.note not in notes:
            problems.append(f"{path.name}: warned otherwise than {one.note!r}")
    assert not problems, "\n".join(problems)
    assert (len(prepared) > 100, len(refused) > 20) == (True, True)


@pytest.mark.parametrize("form", ["FLAC", "MP3", "OGG"])
def test_damage_in_the_middle_is_found_by_prepare_and_training_alike(form: str, tmp_path: Path, voice) -> None:
    path = tmp_path / f"x.{form.lower()}"
    soundfile.write(path, voice(4.0, RATE), RATE, format=form)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(300) + content[middle + 300 :])
    with pytest.raises(AudioError) as trained:
        load_audio(path)
    (prepared,) = scan_folder(tmp_path, decode=True).unreadable
    assert prepared == (path, str(trained.value))


def test_samples_that_are_not_finite_are_found_by_prepare(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", [0.1, float("nan"), 0.1] * 200_000, RATE, "FLOAT")
    ((_, reason),) = scan_folder(tmp_path, decode=True).unreadable
    assert "samples that are NaN or infinite" in reason


def test_whole_and_parts_agree_on_what_is_not_searched_for(specimens: dict[Path, Specimen]) -> None:
    found = find_audio(next(iter(specimens)).parent)
    others = [path for path, one in specimens.items() if path not in found and not one.refused]
    assert others
    for path in others:
        whole = load_audio(path)
        assert audio_info(path).n_samples == whole.shape[1], path
        for start in (1, whole.shape[1] // 2, whole.shape[1] - 1):
            torch.testing.assert_close(load_audio(path, start=start)[:, :500], whole[:, start : start + 500])


def test_nothing_is_decoded_twice_to_know_its_length(specimens: dict[Path, Specimen], monkeypatch) -> None:
    """A length that only decoding tells is counted once, or while the samples are read."""
    path = next(path for path in specimens if path.name == "mp3_without_xing.mp3")
    opened = []
    real = decoding.AudioFile._opened
    monkeypatch.setattr(decoding.AudioFile, "_opened", lambda self, stream: opened.append(1) or real(self, stream))
    decoding._KNOWN.clear()
    load_audio(path)
    assert len(opened) == 2, "one look at the header, one reading"
    audio_info(path)
    load_audio(path, start=RATE, n_samples=100)
    assert len(opened) == 3, "the length is remembered"
    path.write_bytes(path.read_bytes()[:-5000])
    assert audio_info(path).n_samples < specimens[path].n_samples, "a file that has changed is looked into again"
    path.write_bytes(specimens[path].content)


def test_file_objects_are_read_like_paths(specimens: dict[Path, Specimen]) -> None:
    for path, one in list(specimens.items())[::5]:
        if one.refused or path.suffix not in (".wav", ".flac", ".ogg", ".caf"):
            continue
        expected = load_audio(path)
        with path.open("rb") as file:
            assert torch.equal(load_audio(file), expected)
        assert torch.equal(load_audio(io.BytesIO(one.content), start=100), expected[:, 100:])
        assert audio_info(io.BytesIO(one.content)).n_samples == expected.shape[1]
    with pytest.raises(AudioError, match="the file object is cut off"):
        load_audio(io.BytesIO(next(iter(specimens.values())).content[:1000]))
