"""A crop is what the whole file, resampled, has at that place; files that do not fit are named."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.audio.finishing import fades
from audiodiff.audio.io import load_audio
from audiodiff.audio.resample import resample
from audiodiff.config import DataConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.manifest import Recording, scan_folder
from audiodiff.errors import AudioError, DataError

RATE = 8000


@pytest.fixture
def record(tmp_path, save_voice):
    """Write one sound and return its manifest entry."""

    def make(seconds=1.0, sample_rate=RATE, name="x.wav", **fields):
        save_voice(tmp_path / name, seconds, sample_rate)
        (recording,) = scan_folder(tmp_path).recordings
        return recording.model_copy(update=fields)

    return make


def test_crops_of_a_model_are_whole_hops(tiny_model_config):
    data = DataConfig(train="x", crop_seconds=0.25, resample=False)
    assert CropReader.for_model(tiny_model_config, data) == CropReader(
        RATE, 32 * 64, 3 * 64, (), False, mel=tiny_model_config.mel
    )


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_crop_equals_the_same_place_of_the_whole_file(record, name):
    recording = record(name=name)
    whole = load_audio(recording.audio)
    starts = np.linspace(0, recording.n_samples - 640, 7).astype(int)
    for start in starts:
        position = (start + 0.5) / (recording.n_samples - 640 + 1)
        crop = CropReader(RATE, 640).read(recording, position).audio
        assert crop.dtype == torch.float32
        torch.testing.assert_close(crop, whole[:, start : start + 640], atol=1e-6, rtol=0)


@pytest.mark.parametrize("speed", [0.8, 1.24, 2.0])
def test_a_crop_at_another_speed_equals_the_whole_file_at_it(record, speed):
    recording = record(2.0).model_copy(update={"bandwidth": 1000.0})
    whole = resample(load_audio(recording.audio), round(RATE * speed), RATE)
    crop = CropReader(RATE, 640).read(recording, 0.0, speed)
    torch.testing.assert_close(crop.audio, whole[:, :640], atol=2e-6, rtol=0)
    assert float(crop.bandwidth) == pytest.approx(1000 * speed)
    assert CropReader(RATE, 640).read(recording, 0.999, speed).audio.abs().max() > 0


def test_a_one_shot_begins_where_it_begins(record):
    recording = record(1.0)
    reader = CropReader(RATE, 640, one_shots=True)
    assert torch.equal(reader.read(recording, 0.9).audio, CropReader(RATE, 640).read(recording, 0.0).audio)


def test_every_crop_is_brought_to_the_same_peak(record):
    recording = record(1.0)
    plain = CropReader(RATE, 640).read(recording, 0.5).audio
    crop = CropReader(RATE, 640, peak_db=-1.0).read(recording, 0.5).audio
    assert float(crop.abs().max()) == pytest.approx(10 ** (-1 / 20))
    torch.testing.assert_close(crop / crop.abs().max(), plain / plain.abs().max())
    silence = CropReader(RATE, 640, peak_db=-1.0).shape(torch.zeros(1, 640), torch.tensor([640]))
    assert torch.equal(silence, torch.zeros(1, 640))


@pytest.mark.parametrize("speed", [1.0, 1.24])
@pytest.mark.parametrize("n_samples", [640, 16000])
def test_a_crop_fades_out_at_its_end_or_where_the_recording_ends(record, n_samples, speed):
    recording = record(1.0)
    plain = CropReader(RATE, n_samples, one_shots=True).read(recording, 0.0, speed).audio[0]
    crop = CropReader(RATE, n_samples, one_shots=True, fade=(0, 100)).read(recording, 0.0, speed).audio[0]
    end = min(n_samples, round(RATE / speed))
    assert torch.equal(crop[: end - 100], plain[: end - 100])
    fall = fades(100, torch.tensor([100]), 0, 100)[0, 50:]
    torch.testing.assert_close(crop[end - 50 : end], plain[end - 50 : end] * fall)
    assert torch.all(crop[end:] == 0)


def test_fades_rise_and_fall():
    weight, early = fades(1000, torch.tensor([1000, 600]), 10, 200)
    assert torch.all(weight[:10].diff() > 0)
    assert torch.all(weight[10:800] == 1)
    assert torch.all(weight[800:].diff() < 0)
    assert weight[0] < 0.01
    assert weight[-1] < 0.0001
    torch.testing.assert_close(early[400:600], weight[800:])
    assert torch.all(early[600:] == 0)
    assert torch.equal(fades(5, torch.tensor([3]), 0, 0), torch.ones(1, 5))


@pytest.mark.parametrize("file_rate", [4000, 11025, 16000, 22050, 48000])
def test_crop_of_a_resampled_file_equals_the_resampled_whole(record, file_rate):
    recording = record(2.0, file_rate)
    whole = load_audio(recording.audio, sample_rate=RATE)
    period = file_rate // np.gcd(file_rate, RATE)
    n_starts = recording.n_samples - int(np.ceil(640 * file_rate / RATE)) + 1
    for start in (0, n_starts // 2 // period * period, (n_starts - 1) // period * period):
        crop = CropReader(RATE, 640).read(recording, (start + 0.5) / n_starts).audio
        begin = start * RATE // file_rate
        torch.testing.assert_close(crop, whole[:, begin : begin + 640], atol=2e-6, rtol=0)


def test_only_the_crop_is_read(record, monkeypatch):
    recording = record(60.0, 16000)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames=-1, **named: read.append(frames) or original(self, frames, **named),
    )
    CropReader(RATE, 640).read(recording, 0.5)
    assert sum(read) < 3 * 1280


def test_short_recordings_are_padded_at_the_end_and_counted(record, caplog):
    recording = record(0.05)
    reader = CropReader(RATE, 640)
    with caplog.at_level(logging.WARNING):
        reader.check([recording, recording.model_copy(update={"seconds": 5.0})])
    assert "1 of 2 recordings are shorter than a crop of 0.08 s" in caplog.text
    caplog.clear()
    CropReader(RATE, 640, one_shots=True).check([recording])  # which are meant to be short
    assert not caplog.text
    crop = reader.read(recording, 0.99).audio
    assert torch.equal(crop[:, :400], load_audio(recording.audio))
    assert torch.equal(crop[:, 400:], torch.zeros(1, 240))


@pytest.mark.parametrize("seconds", [0.05, 1.0])
@pytest.mark.parametrize("file_rate", [4000, 8000, 11025, 16000])
def test_context_is_what_lies_around_the_crop_and_zeros_beyond_the_file(record, file_rate, seconds):
    recording = record(seconds, file_rate)
    period = file_rate // np.gcd(file_rate, RATE)
    lead = 4000 // period * period
    extended = torch.nn.functional.pad(load_audio(recording.audio), (lead, 4000))
    whole = resample(extended, file_rate, RATE)[:, lead * RATE // file_rate - 192 :]
    n_starts = max(recording.n_samples - int(np.ceil(640 * file_rate / RATE)), 0) + 1
    for start in (0, n_starts // 2 // period * period, (n_starts - 1) // period * period):
        crop = CropReader(RATE, 640, context=192).read(recording, (start + 0.5) / n_starts).audio
        begin = start * RATE // file_rate
        torch.testing.assert_close(crop, whole[:, begin : begin + 1024], atol=2e-6, rtol=0)


def test_channels_are_averaged(tmp_path, voice):
    left, right = voice(0.5, RATE, 1), voice(0.5, RATE, 2)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    (recording,) = scan_folder(tmp_path).recordings
    crop = CropReader(RATE, 4000).read(recording, 0).audio
    np.testing.assert_allclose(crop[0], (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("file_rate", "stated", "band"),
    [
        (8000, None, np.inf),
        (8000, 3000.0, 3000.0),
        (8000, 3900.0, np.inf),
        (4000, None, 2000.0),
        (4000, 1500.0, 1500.0),
        (16000, 3000.0, 3000.0),
        (7500, None, np.inf),
    ],
)
def test_bandwidth_is_that_of_the_file_or_the_stated_one(record, file_rate, stated, band):
    recording = record(1.0, file_rate, bandwidth=stated)
    assert float(CropReader(RATE, 640).read(recording, 0).bandwidth) == band
    assert float(CropReader(RATE, 640, mask_bandwidth=False).read(recording, 0).bandwidth) == float("inf")


def test_labels_become_indices(record):
    recording = record(label="no")
    reader = CropReader(RATE, 640, labels=("yes", "no"))
    assert int(reader.read(recording, 0).label) == 1
    assert int(reader.read(recording.model_copy(update={"label": None}), 0).label) == 2
    assert int(CropReader(RATE, 640).read(recording, 0).label) == 0


@pytest.mark.parametrize(
    ("recording", "reader", "message"),
    [
        ({"sample_rate": 16000}, {"resample": False}, "x.wav is 16000 Hz; this model needs 8000 Hz"),
        (
            {"label": "maybe"},
            {"labels": ("yes", "no")},
            "label 'maybe', which is not one of the model's labels: yes, no",
        ),
        ({}, {"labels": ("yes", "no")}, "none of 1 recordings has one"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(recording, reader, message):
    recordings = [Recording(**{"audio": "x.wav", "seconds": 1, "sample_rate": RATE} | recording)]
    with pytest.raises(DataError, match=message):
        CropReader(RATE, 640, **reader).check(recordings)


def test_no_recordings_are_refused():
    with pytest.raises(DataError, match="no recordings"):
        CropReader(RATE, 640).check([])


@pytest.mark.parametrize("lie", [{"sample_rate": 16000}, {"n_samples": 7999}])
def test_a_manifest_that_is_out_of_date_is_noticed(record, lie):
    with pytest.raises(DataError, match="x.wav has 8000 samples at 8000 Hz; its manifest says"):
        CropReader(RATE, 640).read(record().model_copy(update=lie), 0)


def test_an_unreadable_file_is_named(record):
    recording = record()
    recording.audio.write_text("no sound")
    with pytest.raises(AudioError, match="x.wav cannot be read"):
        CropReader(RATE, 640).read(recording, 0)
