"""Audio survives every format and bit depth, is read in part as in whole, and is refused by name when it is broken."""

from __future__ import annotations

import errno
import io
import os
import socket
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiodiff.audio.io import AUDIO_EXTENSIONS, audio_info, load_audio, replacing, save_audio
from audiodiff.errors import AudioError, OutputError

RATE = 16000


def tones(n_samples: int = 12000, channels: int = 1) -> Tensor:
    """Two tones and some noise, peak near 0.9, shape (channels, n_samples)."""
    time = torch.arange(n_samples) / RATE
    phase = torch.arange(channels)[:, None]
    noise = 0.05 * torch.randn(channels, n_samples, generator=torch.Generator().manual_seed(0))
    return 0.5 * torch.sin(2 * torch.pi * 440 * time + phase) + 0.3 * torch.sin(2 * torch.pi * 1900 * time) + noise


STEPS = {
    ("wav", "PCM_U8"): 2**-7, ("wav", "PCM_16"): 2**-15, ("wav", "PCM_24"): 2**-23, ("wav", "PCM_32"): 2**-24,
    ("wav", "FLOAT"): 0.0, ("wav", "DOUBLE"): 0.0,
    ("flac", "PCM_S8"): 2**-7, ("flac", "PCM_16"): 2**-15, ("flac", "PCM_24"): 2**-23,
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("extension", "subtype"), STEPS)
def test_round_trip_is_exact_to_half_a_step_then_to_the_bit(tmp_path, extension, subtype, channels) -> None:
    path, audio = tmp_path / f"x.{extension}", tones(channels=channels)
    save_audio(path, audio, RATE, subtype)
    loaded = load_audio(path, mono=False)
    assert soundfile.info(path).subtype == subtype
    assert (loaded.shape, loaded.dtype) == (audio.shape, torch.float32)
    assert (loaded - audio).abs().max() <= 0.5001 * STEPS[extension, subtype]
    assert abs((loaded - audio).mean()) <= 0.02 * STEPS[extension, subtype]
    save_audio(path, loaded, RATE, subtype)
    assert torch.equal(load_audio(path, mono=False), loaded)


@pytest.mark.parametrize(("extension", "seconds"), [("ogg", 0.75), ("mp3", 0.75)])
def test_lossy_round_trip_is_close(tmp_path, extension, seconds) -> None:
    path, audio = tmp_path / f"x.{extension}", tones()
    save_audio(path, audio, RATE)
    loaded = load_audio(path)
    assert audio_info(path).seconds == seconds
    assert loaded.shape == audio.shape
    assert (loaded - audio).norm() / audio.norm() < 0.15


def test_long_ogg_is_written(tmp_path) -> None:
    """libsndfile's Vorbis encoder crashes on so many samples in one call."""
    save_audio(tmp_path / "x.ogg", torch.zeros(3_000_000), RATE)
    assert audio_info(tmp_path / "x.ogg").n_samples == 3_000_000


def test_defaults_and_full_scale(tmp_path) -> None:
    save_audio(tmp_path / "x.wav", torch.tensor([1.0, -1.0, 0.5]), RATE)
    assert soundfile.info(tmp_path / "x.wav").subtype == "PCM_16"
    assert soundfile.read(tmp_path / "x.wav", dtype="int16")[0].tolist() == [32767, -32768, 16384]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.wav"]


def test_info_says_what_is_in_the_file(tmp_path) -> None:
    save_audio(tmp_path / "x.flac", tones(8000, channels=2), RATE)
    info = audio_info(tmp_path / "x.flac")
    assert (info.sample_rate, info.n_samples, info.channels, info.seconds) == (RATE, 8000, 2, 0.5)


def test_mono_is_the_mean_of_channels(tmp_path) -> None:
    audio = tones(channels=2)
    save_audio(tmp_path / "x.wav", audio, RATE, "FLOAT")
    torch.testing.assert_close(load_audio(tmp_path / "x.wav"), audio.mean(0, keepdim=True))


def test_sample_rate_resamples(tmp_path) -> None:
    save_audio(tmp_path / "x.wav", tones(8000), RATE)
    assert load_audio(tmp_path / "x.wav").shape == (1, 8000)
    assert load_audio(tmp_path / "x.wav", RATE).shape == (1, 8000)
    assert load_audio(tmp_path / "x.wav", 22050).shape == (1, 11025)
    assert load_audio(tmp_path / "x.wav", 8000, start=1000, n_samples=500).shape == (1, 250)


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_part_of_a_file_equals_that_part_of_the_whole(tmp_path, name) -> None:
    path = tmp_path / name
    # Quiet, with bursts of noise for which an MP3 saves up bits in the frames before.
    time = torch.arange(150_000)
    noise = torch.randn(150_000, generator=torch.Generator().manual_seed(1))
    audio = 0.01 * torch.sin(0.3 * time) + 0.1 * noise * (time % 30_000 < 3000)
    save_audio(path, audio, RATE)
    whole = load_audio(path)
    for start in (0, 1, 11_519, 33_333, 77_777, 120_001, 147_123, 149_000):
        part = load_audio(path, start=start, n_samples=1000)
        torch.testing.assert_close(part, whole[:, start : start + 1000], atol=1e-6, rtol=0)
    assert load_audio(path, start=149_999).shape == (1, 1)


@pytest.mark.parametrize(("start", "n_samples"), [(0, 12001), (11999, 2), (12000, None), (-1, 5), (5, 0)])
def test_part_beyond_the_file_is_refused(tmp_path, start, n_samples) -> None:
    save_audio(tmp_path / "x.wav", tones(), RATE)
    with pytest.raises(AudioError, match=rf"x.wav has 12000 samples; cannot read -?\d+ samples from {start} on"):
        load_audio(tmp_path / "x.wav", start=start, n_samples=n_samples)


def broken(folder: Path, kind: str) -> Path:
    """Make a file that is broken in one way."""
    path = folder / {"text": "x.wav", "nothing": "x.wav", "raw": "x.raw", "folder": "x.wav"}.get(kind, f"x.{kind}")
    if kind == "text":
        path.write_text("LibriVox is a library of recordings\n" * 30)
    elif kind == "nothing":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "raw":
        path.write_bytes(bytes(1000))
    else:
        soundfile.write(path, tones(90_000)[0].numpy(), RATE)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", r"x.wav cannot be read \(.*Format not recognised\): it is no audio, damaged, .* with ffmpeg"),
        ("nothing", r"x.wav cannot be read \(.*Format not recognised\)"),
        ("folder", "x.wav is a folder; expected an audio file"),
        ("raw", "x.raw has no header that tells rate and encoding"),
        ("wav", r"x.wav is cut off: its header promises 180000 bytes of audio, \d+ are there"),
        ("aiff", r"x.aiff is cut off: its header promises \d+ bytes of audio, \d+ are there"),
        ("au", r"x.au is cut off: its header promises \d+ bytes of audio, \d+ are there"),
        ("w64", r"x.w64 is cut off: its header promises \d+ bytes of audio, \d+ are there"),
        ("flac", r"x.flac is cut off: its header promises 90000 samples, \d+ are there"),
        ("ogg", r"x.ogg is cut off: its last page is not whole"),
        ("mp3", r"x.mp3 is cut off: its header promises 90000 samples, \d+ are there"),
    ],
)
def test_broken_file_is_refused_by_name(tmp_path, kind, message) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(broken(tmp_path, kind))


@pytest.mark.parametrize("kind", ["text", "nothing", "folder", "raw", "wav", "ogg"])
def test_info_refuses_what_loading_refuses(tmp_path, kind) -> None:
    with pytest.raises(AudioError, match=r"x\."):
        audio_info(broken(tmp_path, kind))


@pytest.mark.parametrize("n_bytes", [1, 100, 4000])
def test_ogg_without_its_last_bytes_is_refused(tmp_path, n_bytes) -> None:
    save_audio(tmp_path / "x.ogg", tones(90_000), RATE)
    content = (tmp_path / "x.ogg").read_bytes()
    (tmp_path / "x.ogg").write_bytes(content[:-n_bytes])
    with pytest.raises(AudioError, match=r"x.ogg is cut off"):
        audio_info(tmp_path / "x.ogg")


def test_missing_and_empty_files_are_refused(tmp_path) -> None:
    with pytest.raises(AudioError, match=r"none.wav does not exist; expected an audio file"):
        load_audio(tmp_path / "none.wav")
    soundfile.write(tmp_path / "x.wav", np.zeros(0), RATE)
    with pytest.raises(AudioError, match=r"x.wav is empty: it has a header and 0 samples"):
        load_audio(tmp_path / "x.wav")


def test_samples_that_are_not_finite_are_refused(tmp_path) -> None:
    audio = tones()[0].numpy()
    audio[[3, 5, 7]] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "x.wav", audio, RATE, "FLOAT")
    with pytest.raises(AudioError, match=r"x.wav has 3 samples that are NaN or infinite"):
        load_audio(tmp_path / "x.wav")
    assert load_audio(tmp_path / "x.wav", start=8).shape == (1, 11992)


@pytest.mark.parametrize(
    ("name", "audio", "subtype", "message"),
    [
        ("x.m4a", tones(), None, r"x.m4a has extension '.m4a'; audio is written as .wav, .flac, .ogg, .mp3"),
        ("x", tones(), None, "has extension ''; audio is written as"),
        ("x.flac", tones(), "FLOAT", "cannot hold subtype 'FLOAT'; FLAC knows .*PCM_16, PCM_24"),
        ("none/x.wav", tones(), None, "cannot be written: there is no folder .*none. Create it first"),
        ("x.wav", tones()[None], None, r"shape \(1, 1, 12000\) and type torch.float32; expected .* one by one"),
        ("x.wav", torch.zeros(1, 0), None, r"shape \(1, 0\) .*; expected at least one sample"),
        ("x.wav", torch.zeros(5, dtype=torch.int16), None, r"type torch.int16; expected .* floating point"),
        ("x.wav", tones().T, None, r"shape \(12000, 1\); expected \(channels, time\). Transpose it"),
        ("x.wav", torch.tensor([0.0, float("nan"), float("inf")]), None, "2 samples that are NaN or infinite"),
        ("x.flac", 0.5 * tones(channels=9), None, "x.flac cannot be written with .*'channels': 9"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_left(tmp_path, name, audio, subtype, message) -> None:
    with pytest.raises(AudioError, match=message):
        save_audio(tmp_path / name, audio, RATE, subtype)
    assert list(tmp_path.iterdir()) == []


def test_rate_that_a_format_does_not_know_is_refused(tmp_path) -> None:
    with pytest.raises(AudioError, match="'samplerate': 96000.*only supports sample rates"):
        save_audio(tmp_path / "x.mp3", tones(), 96000)
    with pytest.raises(AudioError, match="its sample rate 0 is not"):
        save_audio(tmp_path / "x.wav", tones(), 0)


@pytest.mark.parametrize(
    ("rate", "channels", "message"),
    [
        (0, 1, "its sample rate 0 is not a whole number from 1 to 768,000"),
        (2**31, 1, "its sample rate 2147483648 is not a whole number"),
        (True, 1, "its sample rate True is not"),
        (200_001, 1, "cannot hold 1 channels at 200001 Hz: Vorbis ends at"),
        (8000, 256, "cannot hold 256 channels at 8000 Hz: Vorbis ends at"),
    ],
)
def test_what_crashes_the_encoder_of_vorbis_is_refused(tmp_path, rate, channels, message) -> None:
    with pytest.raises(AudioError, match=message):
        save_audio(tmp_path / "x.ogg", torch.zeros(channels, 1000), rate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": "8k"}, "cannot resample from 8000 Hz to '8k' Hz: '8k' is not a whole number"),
        ({"sample_rate": 10**9}, "cannot resample from 8000 Hz to 1000000000 Hz"),
        ({"start": 1.5}, "start 1.5 or n_samples None is no whole number"),
        ({"n_samples": "9"}, "start 0 or n_samples '9' is no whole number"),
    ],
)
def test_parts_and_rates_that_are_no_whole_numbers_are_refused(tmp_path, options, message) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 8000)
    with pytest.raises(AudioError, match=message):
        load_audio(tmp_path / "x.wav", **options)


def test_failed_save_keeps_the_file_that_was_there(tmp_path) -> None:
    path = tmp_path / "x.mp3"
    save_audio(path, tones(), RATE)
    before = path.read_bytes()
    with pytest.raises(AudioError, match="cannot be written"):
        save_audio(path, tones(), 96000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_clipping_is_counted_and_float_is_not_clipped(tmp_path) -> None:
    audio = torch.tensor([0.0, 1.5, -2.0, 0.5])
    with pytest.warns(UserWarning, match=r"2 of 4 samples are beyond ±1 \(peak 2\) and are clipped for PCM_16") as seen:
        save_audio(tmp_path / "x.wav", audio, RATE)
    assert seen[0].filename == __file__
    assert load_audio(tmp_path / "x.wav")[0].tolist() == [0.0, 32767 / 32768, -1.0, 0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_audio(tmp_path / "x.wav", audio, RATE, "float")
        save_audio(tmp_path / "y.wav", torch.tensor([1.0, -1.0]), RATE)
    assert torch.equal(load_audio(tmp_path / "x.wav")[0], audio)


def test_save_takes_tensors_that_need_gradients_and_half_precision(tmp_path) -> None:
    save_audio(tmp_path / "x.wav", tones().requires_grad_(), RATE)
    save_audio(tmp_path / "y.wav", tones().bfloat16(), RATE)
    assert load_audio(tmp_path / "y.wav").shape == (1, 12000)


def test_extensions_that_soundfile_can_write_can_be_found() -> None:
    formats = {name.lower() for name in soundfile.available_formats()}
    assert {f".{name}" for name in formats & {"wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "rf64"}} <= set(
        AUDIO_EXTENSIONS
    )


# --- the way every file is written ------------------------------------------------------------------------------------


def make_device(path: Path) -> None:
    """A link to a device, since making one takes a superuser."""
    path.symlink_to("/dev/full")


def make_socket(path: Path) -> None:
    """A socket that nobody reads."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Path.mkdir, "a folder"), (os.mkfifo, "a pipe"), (make_device, "a device"), (make_socket, "a socket")],
)
def test_what_is_no_file_is_not_replaced(tmp_path, make, kind) -> None:
    path = tmp_path / "x.wav"
    make(path)
    before = path.lstat()
    with pytest.raises(OutputError, match=f"x.wav is {kind}; expected a file. Choose another name."), replacing(path):
        pytest.fail("there was nothing to write to")
    with pytest.raises(AudioError, match=f"x.wav is {kind}"):
        save_audio(path, tones(), RATE)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(tmp_path) == ["x.wav"]


def test_links_to_files_stay_and_the_files_are_replaced(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x.wav").write_text("old")
    (tmp_path / "x.wav").symlink_to("disk/x.wav")
    (tmp_path / "y.wav").symlink_to("disk/y.wav")  # what it names is not there yet
    for name in ("x.wav", "y.wav"):
        save_audio(tmp_path / name, tones(), RATE)
        assert (tmp_path / name).is_symlink()
        assert audio_info(tmp_path / "disk" / name).n_samples == 12000
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop cannot be written: Too many levels of symbolic links"):
        replacing(tmp_path / "loop").__enter__()


@pytest.mark.parametrize("name", ["a" * 226 + ".wav", "é" * 125 + ".wav", "a" * 251 + ".wav"])
def test_names_as_long_as_a_file_system_allows_are_written(tmp_path, name) -> None:
    save_audio(tmp_path / name, tones(), RATE)
    assert os.listdir(tmp_path) == [name]
    with (
        pytest.raises(OutputError, match="File name too long. Choose a shorter name"),
        replacing(tmp_path / ("b" + name * 2)),
    ):
        pytest.fail("there was nothing to write to")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "x.txt cannot be written: No space left on device. Make room on the disk"),
        (errno.EROFS, "x.txt cannot be written: Read-only file system. Choose a folder that you may write to"),
    ],
)
def test_disks_that_take_nothing_are_named_and_the_old_file_stays(tmp_path, number, message) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("ha")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=message):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_errors_of_what_is_read_meanwhile_stay_their_own(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), replacing(tmp_path / "x.txt"):
        (tmp_path / "absent").read_bytes()


def test_folders_are_made_and_files_in_their_way_are_named(tmp_path) -> None:
    with replacing(tmp_path / "a" / "b" / "x.txt") as part:
        part.write_text("new")
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "new"
    for path, message in (
        ("a/b/x.txt/y", "x.txt cannot be written: File exists. It is a file"),
        ("a/b/x.txt/y/z", "y cannot be written: Not a directory"),
    ):
        with pytest.raises(OutputError, match=message), replacing(tmp_path / path):
            pytest.fail("there was nothing to write to")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_file_objects_are_written_and_read_like_paths(tmp_path, kind) -> None:
    save_audio(tmp_path / f"x.{kind}", tones(), RATE)
    buffer = io.BytesIO()
    save_audio(buffer, tones().numpy(), RATE, format=kind)
    assert soundfile.info(io.BytesIO(buffer.getvalue())).format.lower() == kind
    assert torch.equal(load_audio(buffer), load_audio(tmp_path / f"x.{kind}"))
    with (tmp_path / "y").open("wb") as file:
        save_audio(file, tones(), RATE, format=kind)
    assert torch.equal(load_audio(tmp_path / "y"), load_audio(buffer))


def test_a_pipe_is_read_whole(tmp_path) -> None:
    save_audio(tmp_path / "x.flac", tones(), RATE)
    with subprocess.Popen(["cat", tmp_path / "x.flac"], stdout=subprocess.PIPE) as process:
        assert torch.equal(load_audio(process.stdout), load_audio(tmp_path / "x.flac"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "expected a path, or a file object opened with 'rb'; got NoneType None"),
        (5, "got int 5"),
        (["x.wav"], r"got list \['x.wav'\]"),
        (b"RIFF", "got bytes. Wrap the content of a file in io.BytesIO"),
        (io.StringIO("x"), "got a file in text mode"),
    ],
)
def test_what_is_no_file_is_refused_in_a_sentence(source, message) -> None:
    for read in (load_audio, audio_info):
        with pytest.raises(AudioError, match=message):
            read(source)
    with pytest.raises(AudioError, match="audio cannot be written to .*; expected a path, or a file object opened"):
        save_audio(source, tones(), RATE)


def test_a_closed_or_read_only_file_object_is_refused_and_nothing_is_written(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"kept")
    with (tmp_path / "x").open("rb") as file, pytest.raises(AudioError, match="cannot be written"):
        save_audio(file, tones(), RATE)
    for use in (load_audio, lambda file: save_audio(file, tones(), RATE)):
        with pytest.raises(AudioError, match="closed"):
            use(file)
    assert (tmp_path / "x").read_bytes() == b"kept"


def test_whole_numbers_as_floating_point_are_named_when_read_and_when_written(tmp_path) -> None:
    """Saved without a word they would become a square wave."""
    soundfile.write(tmp_path / "x.wav", 32768 * tones()[0].numpy(), RATE, "FLOAT")
    with pytest.warns(UserWarning, match=r"x.wav goes far beyond ±1. .* a square wave. Divide by .* is 32768"):
        audio = load_audio(tmp_path / "x.wav")
    with pytest.warns(UserWarning, match=r"clipped for PCM_16. These look like whole numbers .* square wave. Divide"):
        save_audio(tmp_path / "y.wav", audio, RATE)


@pytest.mark.parametrize("name", ["x.au", "x.snd"])
def test_a_file_without_a_header_is_not_taken_for_samples(tmp_path, name):
    """libsndfile would read anything of these names as µ-law at 8000 Hz."""
    (tmp_path / name).write_bytes(b".sn\0" + bytes(5000))
    with pytest.raises(AudioError, match=f"{name} has no header of an audio file"):
        audio_info(tmp_path / name)


@pytest.mark.parametrize("n_bytes", [5, 20, 26])
def test_an_ogg_file_that_ends_within_the_header_of_a_page_is_cut_off(tmp_path, n_bytes):
    save_audio(tmp_path / "x.ogg", tones(8000), RATE)
    data = (tmp_path / "x.ogg").read_bytes()
    (tmp_path / "x.ogg").write_bytes(data[: data.rindex(b"OggS") + n_bytes])
    with pytest.raises(AudioError, match="x.ogg is cut off"):
        audio_info(tmp_path / "x.ogg")


def test_an_impossible_sample_rate_is_refused_before_anything_is_resampled(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 2**31 - 1)
    with pytest.raises(AudioError, match=r"x.wav: its sample rate 2147483647 is not a whole number from 1 to 768,000"):
        load_audio(tmp_path / "x.wav", 8000)


def test_a_name_that_is_no_utf_8_is_written_and_read(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.wav")
    save_audio(path, tones(800), RATE)
    assert load_audio(path).shape == (1, 800)
