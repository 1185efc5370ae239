"""`audiodiff vocode - --output -`: a mel or audio on stdin, audio on stdout while it comes."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from audiodiff import Vocoder
from audiodiff.audio.pcm import s16le, wav_header
from audiodiff.cli.main import main
from audiodiff.pipelines.vocode_stream import mels_of_audio

RATE = 8000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def mel(vocoder, voice):
    return vocoder.mel(voice(1.0, RATE, 1))


@pytest.fixture(scope="module")
def expected(vocoder, mel):
    return vocoder(mel, seed=4)


@pytest.fixture
def stream(tiny_vocoder_folder, tmp_path, monkeypatch):
    """Run `audiodiff vocode - --output - --seed 4 …` with these bytes on stdin."""
    monkeypatch.chdir(tmp_path)

    def run(data, *options, source="-", target="-"):
        words = ["vocode", source, "--output", target, "--model", str(tiny_vocoder_folder), "--seed", "4", *options]
        return CliRunner().invoke(main, list(map(str, words)), input=data)

    return run


def npy(*arrays):
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def frames(mel):
    return mel.T.astype("<f4").tobytes()


def heard(result):
    assert result.exit_code == 0, result.stderr
    data = result.stdout_bytes
    assert data[:44] == wav_header(RATE)
    assert data[:4] + data[8:16] == b"RIFFWAVEfmt "
    return np.frombuffer(data[44:], "<i2") / 32768


def assert_close(audio, expected):
    assert audio.shape == expected.shape
    assert np.abs(audio - np.clip(expected, -1, 1)).max() < 2e-4


def test_raw_frames_npy_and_several_npy_give_the_same_audio(stream, mel, expected):
    for data in (frames(mel), npy(mel), npy(np.asfortranarray(mel).astype(np.float64)), npy(mel[:, :7], mel[:, 7:])):
        assert_close(heard(stream(data)), expected)


def test_the_chunk_does_not_change_the_audio(stream, mel, expected):
    assert_close(heard(stream(frames(mel), "--chunk-seconds", "0.05")), expected)


def test_raw_samples_come_out_without_a_header(stream, mel, expected):
    result = stream(frames(mel), "--output-format", "s16le")
    assert_close(np.frombuffer(result.stdout_bytes, "<i2") / 32768, expected)
    assert "1.02 s of audio" in result.stderr or "1.00 s of audio" in result.stderr


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
def test_a_wav_becomes_what_its_mel_does_and_keeps_its_length(stream, vocoder, voice, subtype):
    audio, file = voice(1.003, RATE, 1), io.BytesIO()
    soundfile.write(file, audio, RATE, subtype=subtype, format="WAV")
    file.seek(0)
    decoded = soundfile.read(file, dtype="float32")[0]
    result = heard(stream(file.getvalue(), "--chunk-seconds", "0.1"))
    assert_close(result, vocoder(vocoder.mel(decoded), seed=4)[: len(audio)])


def test_raw_samples_in_and_a_wav_of_unknown_length(stream, vocoder, voice):
    audio = voice(1.0, RATE, 1)
    decoded = np.frombuffer(s16le(audio), "<i2").astype(np.float32) / 32768
    expected = vocoder(vocoder.mel(decoded), seed=4)[: len(audio)]
    assert_close(heard(stream(s16le(audio), "--input-format", "s16le")), expected)
    assert_close(heard(stream(wav_header(RATE) + s16le(audio))), expected)


def test_another_rate_needs_resample(stream, voice):
    file = io.BytesIO()
    soundfile.write(file, voice(1.0, 2 * RATE, 1), 2 * RATE, format="WAV")
    assert "16000 Hz; this model needs 8000 Hz. Use --resample." in stream(file.getvalue()).stderr
    assert abs(len(heard(stream(file.getvalue(), "--resample"))) - RATE) <= 2


@pytest.mark.parametrize("n_frames", [1, 4, 1000])
def test_the_mel_of_audio_in_pieces_is_that_of_the_whole(vocoder, voice, n_frames):
    audio = voice(1.013, RATE, 1)
    pieces = list(mels_of_audio(vocoder, np.array_split(audio, 37), n_frames))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), vocoder.mel(audio), rtol=0, atol=1e-4)


def test_a_partial_frame_is_named(stream, mel, expected):
    result = stream(frames(mel) + b"\0" * 7)
    assert_close(heard(result), expected)
    assert "stdin ends with 7 bytes, no whole frame of 20 bins of 80 bytes; dropped" in result.stderr


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"", (), "stdin is empty"),
        (npy(np.zeros((20, 9), np.float32))[:-5], (), "ends after 715 of the 720 bytes"),
        (npy(np.zeros((20, 9), np.int32)), (), "expected floating point"),
        (npy(np.zeros((9, 20), np.float32)), (), "transposed"),
        (npy(np.array([{}], dtype=object)), (), "expected a mel"),
        (b"\x93NUMPY\x01\x00\x10\x00garbage, garbage", (), "damaged .npy header"),
        (b"\x93NUMPY\x07\x00\x10\x00", (), "damaged .npy header"),
        (struct.pack("<40f", *[float("nan")] * 40), (), "40 values that are NaN"),
        (b"fLaC" + b"\0" * 99, (), "is FLAC; a stream is WAV"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", (), "WAV without audio"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + b"\7" * 16, (), "expected PCM or floating"),
        (b"abc", ("--plot",), "--plot has no effect on a stream"),
        (b"abc", ("--batch-size", "4"), "--batch-size has no effect on a stream"),
    ],
)
def test_what_is_wrong_is_said(stream, data, options, message):
    result = stream(data, *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stdout_bytes == b""


def test_a_stream_goes_to_stdout(stream):
    for words in ({"target": "out.wav"}, {"source": "nothing.wav"}):
        assert stream(b"", **words).exit_code in (1, 2)
    assert "goes to stdout" in stream(b"", target="out.wav").stderr


def test_a_file_to_stdout(stream, mel, expected, tmp_path):
    np.save(tmp_path / "mel.npy", mel)
    assert_close(heard(stream(b"", source="mel.npy")), expected)


def start(tiny_vocoder_folder, *options):
    command = [sys.executable, "-m", "audiodiff", "vocode", "-", "--output", "-", "--model", str(tiny_vocoder_folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *options], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def test_the_first_audio_leaves_before_stdin_is_closed(tiny_vocoder_folder, mel):
    with start(tiny_vocoder_folder, "--chunk-seconds", "0.1") as process:
        process.stdin.write(frames(mel))
        process.stdin.flush()
        assert len(process.stdout.read(44 + 2 * 800)) == 44 + 2 * 800  # stdin is still open
        process.stdin.close()
        rest = process.stdout.read()
        assert process.wait() == 0
        assert 800 + len(rest) // 2 == mel.shape[1] * 64


def test_a_reader_that_leaves_ends_it_quietly(tiny_vocoder_folder, mel):
    with start(tiny_vocoder_folder, "--chunk-seconds", "0.1") as process:
        process.stdin.write(frames(torch.from_numpy(mel).repeat(1, 3).numpy()))
        process.stdin.flush()
        process.stdout.read(44)
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
        process.wait()
    assert errors == b""
