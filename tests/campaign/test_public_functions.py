"""The public functions on drawn arguments: what must hold for every audio, mel, manifest, rate and schedule."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import audiodiff
from audiodiff import Generator, MelSpectrogram, Vocoder, load_audio, save_audio
from audiodiff.audio.resample import resample
from audiodiff.config import mel_convention
from audiodiff.data.manifest import Recording, read_manifest, write_manifest
from audiodiff.diffusion.process import Prediction, alpha_sigma
from audiodiff.diffusion.samplers import SAMPLERS
from audiodiff.diffusion.schedules import SCHEDULES, make_schedule

settings = hypothesis.settings(
    derandomize=True, database=None, deadline=None, max_examples=20, suppress_health_check=list(HealthCheck)
)
few = hypothesis.settings(settings, max_examples=6)
"""For what runs a model."""
seeds = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=20)


def noise(n: int, seed: int, level: float = 0.1, channels: int = 1) -> torch.Tensor:
    return level * torch.from_numpy(np.random.default_rng(seed).standard_normal((channels, n))).float()


@cache
def load_vocoder(folder: Path) -> Vocoder:
    return Vocoder.from_pretrained(str(folder))


def test_every_public_name_is_drawn_here():
    here = Path(__file__).read_text()
    assert all(name in here for name in audiodiff.__all__ if not name.startswith("__"))


@settings
@given(
    n=st.integers(1, 3000), seed=seeds, channels=st.integers(1, 4), rate=st.sampled_from([8000, 22050, 44100, 96000]),
    subtype=st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]), level=st.floats(0, 0.2),
)  # fmt: skip
def test_a_wav_is_read_as_it_was_written(tmp_path, n, seed, channels, rate, subtype, level):
    audio = noise(max(n, channels), seed, level, channels).clamp(-1, 1)
    save_audio(tmp_path / "x.wav", audio, rate, subtype)
    loaded = load_audio(tmp_path / "x.wav", mono=False)
    step = {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 0}[subtype]
    assert loaded.shape == audio.shape
    assert (loaded - audio).abs().max() <= step
    save_audio(tmp_path / "y.wav", loaded, rate, subtype)
    assert torch.equal(load_audio(tmp_path / "y.wav", mono=False), loaded)


@settings
@given(n=st.integers(50, 3000), seed=seeds, start=st.floats(0, 1), length=st.integers(1, 500))
def test_a_part_of_a_file_is_that_part_of_the_whole(tmp_path, n, seed, start, length):
    save_audio(tmp_path / "x.flac", noise(n, seed), 16000)
    first = int(start * (n - 1))
    length = min(length, n - first)
    whole = load_audio(tmp_path / "x.flac")
    assert torch.equal(load_audio(tmp_path / "x.flac", start=first, n_samples=length), whole[:, first : first + length])


@few
@given(
    n=st.integers(1, 20_000), seed=seeds, gain=st.floats(0.01, 100),
    name=st.sampled_from(["hifigan-22k", "tacotron2", "lmnt", "vocos-24k", "bigvgan-24k", "hifigan-22k@8000",
    "lmnt@16000"]),
)  # fmt: skip
def test_a_mel_is_finite_has_its_frames_and_rises_with_the_level(n, seed, gain, name):
    config = mel_convention(name)
    compute = MelSpectrogram(config)
    try:
        mel = compute(noise(n, seed))
    except audiodiff.errors.AudiodiffError:
        assert n < config.n_fft
        return
    frames = n // config.hop_length + 1 if config.centre == "frame" else -(-n // config.hop_length)
    assert mel.shape[-2:] == (config.n_mels, mel.shape[-1])
    assert abs(mel.shape[-1] - frames) <= 1
    assert bool(mel.isfinite().all())
    louder = compute(noise(n, seed) * gain)
    assert bool(((louder >= mel - 1e-4) if gain >= 1 else (louder <= mel + 1e-4)).all())


@few
@given(
    frames=st.integers(1, 60),
    seed=seeds,
    start=st.sampled_from(["noise", "griffin-lim", "phase-gradient"]),
    steps=st.integers(1, 3),
)
def test_a_vocoder_gives_as_many_finite_samples_as_the_mel_says(tiny_vocoder_folder, frames, seed, start, steps):
    vocoder = load_vocoder(tiny_vocoder_folder)
    mel = noise(frames * 20, seed, 2.0).reshape(20, frames) - 4
    audio = vocoder(mel, seed=seed, steps=steps, start=start)
    assert audio.shape[-1] == frames * 64
    assert bool(audio.isfinite().all())
    assert torch.equal(audio, vocoder(mel, seed=seed, steps=steps, start=start))


@few
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=seeds, chunk=st.floats(0.02, 1))
def test_streamed_chunks_join_to_the_whole(tiny_vocoder_folder, cuts, seed, chunk):
    vocoder = load_vocoder(tiny_vocoder_folder)
    mel = noise(sum(cuts) * 20, seed, 1.0).reshape(20, -1) - 4
    whole = vocoder(mel, seed=seed)
    joined = torch.cat(list(vocoder.stream(mel.split(cuts, dim=-1), chunk_seconds=chunk, seed=seed)), dim=-1)
    assert joined.numel() == whole.numel()
    assert torch.allclose(joined.reshape(-1), whole.reshape(-1), atol=1e-4)


@few
@given(
    label=st.sampled_from(["yes", "no"]),
    count=st.integers(1, 3),
    seconds=st.floats(0.05, 0.4),
    seed=st.integers(0, 2**31),
)
def test_clips_depend_on_their_seed_only(tiny_generator_folder, label, count, seconds, seed):
    generator = Generator.from_pretrained(str(tiny_generator_folder))
    clips = generator.generate(label=label, count=count, seconds=seconds, seed=seed)
    assert bool(clips.isfinite().all())
    last = generator.generate(label=label, count=1, seconds=seconds, seed=seed + count - 1)
    assert torch.allclose(clips[-1], last[0], atol=1e-5)


@settings
@given(
    name=st.sampled_from(sorted(SCHEDULES)), n_steps=st.integers(1, 60), low=st.floats(-12, 0), width=st.floats(0.5, 20)
)
def test_every_schedule_rises_between_its_ends(name, n_steps, low, width):
    try:
        levels = make_schedule(name, n_steps, log_snr_min=low, log_snr_max=low + width)
    except audiodiff.errors.AudiodiffError:
        return
    assert len(levels) == n_steps + 1
    assert bool((levels.diff() > 0).all())


@settings
@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    n_steps=st.integers(1, 12),
    seed=seeds,
    mean=st.floats(-2, 2),
    low=st.floats(-12, -4),
)
def test_every_sampler_returns_the_signal_that_an_ideal_denoiser_knows(name, n_steps, seed, mean, low):
    truth = torch.full((1, 1, 64), mean)

    def predict(x, log_snr):
        alpha, sigma = alpha_sigma(log_snr)
        return Prediction(((x - alpha * truth) / sigma).float(), None)

    levels = make_schedule("uniform", n_steps, log_snr_min=low, log_snr_max=10.0)
    generator = torch.Generator().manual_seed(seed % 2**31)

    def fresh(*_position, **_more):
        return torch.randn(truth.shape, generator=generator)

    result = SAMPLERS[name](predict, fresh(), levels, fresh)
    assert bool(result.isfinite().all())
    assert (result - truth).abs().mean() < 0.1


@settings
@given(
    n=st.integers(1, 4000),
    seed=seeds,
    rates=st.tuples(*[st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])] * 2),
)
def test_resampling_keeps_length_in_seconds_and_level(n, seed, rates):
    audio = noise(n, seed)
    result = resample(audio, *rates)
    assert abs(result.shape[-1] - n * rates[1] / rates[0]) <= 1
    assert bool(result.isfinite().all())
    assert rates[0] != rates[1] or torch.equal(result, audio)
    assert result.abs().max() <= 3 * audio.abs().max() + 1e-6


def a_recording(n_samples, seconds, sample_rate, **fields):
    seconds = seconds if n_samples is None else n_samples / sample_rate  # or they contradict each other
    return Recording(n_samples=n_samples, seconds=seconds, sample_rate=sample_rate, **fields)


recordings = st.builds(
    a_recording,
    audio=st.from_regex(r"\A[a-z0-9é _.'-]{1,20}\.wav\Z").map(Path),
    seconds=st.floats(1e-3, 1e5),
    sample_rate=st.integers(1000, 192_000),
    n_samples=st.none() | st.integers(1000, 2**30),
    channels=st.none() | st.integers(1, 64),
    speaker=st.none() | TEXT, label=st.none() | TEXT, text=st.none() | TEXT,
    vector=st.none() | st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4).map(tuple),
    bandwidth=st.none() | st.floats(1, 96_000),
)  # fmt: skip


@settings
@given(entries=st.lists(recordings, max_size=5, unique_by=lambda one: one.audio))
def test_a_manifest_is_read_as_it_was_written(tmp_path, entries):
    entries = [entry.model_copy(update={"audio": tmp_path / entry.audio}) for entry in entries]
    try:
        write_manifest(tmp_path / "list.jsonl", entries)
    except audiodiff.errors.DataError:
        assert any(
            "\ud800" <= letter <= "\udfff"
            for entry in entries
            for letter in f"{entry.speaker}{entry.label}{entry.text}"
        )
        return
    read = read_manifest(tmp_path / "list.jsonl")
    assert [one.audio.resolve() for one in read] == [one.audio.resolve() for one in entries]
    same = {"audio": Path("x")}
    assert [one.model_copy(update=same) for one in read] == [one.model_copy(update=same) for one in entries]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    audio = torch.zeros(1, 100)
    audio[0, 50] = value
    with pytest.raises(audiodiff.errors.AudioError, match="NaN or infinite"):
        save_audio(tmp_path / "x.wav", audio, 8000)
    assert not list(tmp_path.iterdir())
