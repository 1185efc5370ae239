"""Measurements of sounds whose properties are known."""

import numpy as np
import pytest
import soundfile

from audiodiff.data.manifest import scan_folder
from audiodiff.data.measure import measure, measured_bandwidth, note_bandwidth
from audiodiff.errors import AudioError

RATE = 16000


@pytest.fixture
def save(tmp_path):
    def write(audio, name="a.wav", subtype="PCM_16"):
        soundfile.write(tmp_path / name, audio, RATE, subtype=subtype)
        return tmp_path / name

    return write


def sine(seconds=2.0, amplitude=0.5, frequency=440.0):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def test_a_sine_is_what_it_is(save):
    found = measure(save(sine()))
    assert (found.seconds, found.sample_rate, found.n_samples, found.channels) == (2.0, RATE, 2 * RATE, 1)
    assert found.peak == pytest.approx(0.5, abs=1e-3)
    assert found.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.15)
    assert found.dc == pytest.approx(0, abs=1e-3)
    assert (found.clipped, found.silent) == (0, False)
    assert max(found.lead, found.tail) < 0.001


def test_silence_at_the_ends_is_measured_and_does_not_lower_the_level(save):
    found = measure(save(np.concatenate([np.zeros(RATE), sine(), np.zeros(RATE // 2)])))
    assert (found.lead, found.tail) == (pytest.approx(1.0, abs=0.01), pytest.approx(0.5, abs=0.01))
    assert found.level == pytest.approx(measure(save(sine())).level, abs=0.2)


@pytest.mark.parametrize("audio", [np.zeros(RATE), np.full(100, 1e-4)])
def test_silence_is_silent(save, audio):
    found = measure(save(audio))
    assert (found.silent, found.level) == (True, None)
    assert found.lead == found.tail == found.seconds


def test_an_offset_is_found(save):
    assert measure(save(sine() + 0.05)).dc == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("gain", [1.0, 0.4])
def test_cut_off_peaks_are_counted_even_when_made_quieter(save, gain):
    loud = sine(amplitude=2.0)
    expected = int((np.abs(loud) >= 1).sum())
    assert measure(save(gain * np.clip(loud, -1, 1), subtype="FLOAT")).clipped == pytest.approx(expected, rel=0.01)


def test_a_sound_that_only_touches_full_scale_is_not_clipped(save):
    audio = np.random.default_rng(0).standard_normal(RATE)
    assert measure(save(audio / np.abs(audio).max())).clipped == 0
    assert measure(save(np.zeros(RATE))).clipped == 0


def test_content_decides_the_digest_not_the_format(save):
    audio = np.round(sine() * 32768) / 32768
    digest = measure(save(audio)).digest
    assert measure(save(audio, "b.flac")).digest == digest
    assert measure(save(audio, "c.wav", "PCM_24")).digest == digest
    assert measure(save(audio[:-1], "d.wav")).digest != digest
    assert measure(save(audio.reshape(-1, 2), "e.wav")).digest != digest


def test_what_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(AudioError, match=r"a.wav cannot be read"):
        measure(tmp_path / "a.wav")


def test_the_band_is_noted_for_a_whole_folder(save, tmp_path):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(2 * RATE))
    save(0.1 * np.fft.irfft(spectrum), "full.wav")
    spectrum[len(spectrum) // 2 :] = 0
    cut = save(0.1 * np.fft.irfft(spectrum), "cut.wav")
    broken = save(np.full(100, np.nan), "nan.wav", "FLOAT")
    assert measured_bandwidth(cut) == pytest.approx(4000, rel=0.03)
    seen = []
    scan = note_bandwidth(scan_folder(tmp_path), 2, lambda *numbers: seen.append(numbers))
    bands = {recording.audio.name: recording.bandwidth for recording in scan.recordings}
    assert bands == {"full.wav": None, "cut.wav": measured_bandwidth(cut)}
    assert [path for path, reason in scan.unreadable if "NaN" in reason] == [broken]
    assert seen == [(1, 3), (2, 3), (3, 3)]
