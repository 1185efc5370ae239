"""Mel spectrograms equal librosa and the published implementations, in every convention."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram, align_to_hops, check_mel, mel_filterbank, mel_frequencies, mel_range
from audiodiff.config import MEL_CONVENTIONS, MelConfig, parse_config
from audiodiff.errors import AudioError, ConfigError, MelError

sys.path.append(str(Path(__file__).parents[1]))
from mel_signals import voice_like

CONVENTIONS = list(MEL_CONVENTIONS.values())
HIFIGAN = MEL_CONVENTIONS["hifigan-22k"]


def named(config: MelConfig) -> str:
    return config.name


def reference_mel(audio: np.ndarray, config: MelConfig) -> np.ndarray:
    """The definition, written once more with librosa in float64: (time,) -> (n_mels, frames)."""
    padding = {"frame": config.n_fft // 2, "hop": (config.n_fft - config.hop_length) // 2, "window": 0}[config.centre]
    audio = config.full_scale * audio.astype(np.float64)
    audio = audio - config.pre_emphasis * np.concatenate([[0], audio[:-1]])
    window = librosa.filters.get_window("hann", config.win_length, fftbins=config.window == "hann")
    spectrum = librosa.stft(
        np.pad(audio, padding, mode=config.padding),
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        window=window,
        center=False,
    )
    if config.window_norm:
        spectrum = spectrum / np.sqrt((window**2).sum())
    energy = (np.abs(spectrum) ** 2 + config.magnitude_floor) ** (config.power / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of torchaudio's are narrower than a bin
        filters = librosa.filters.mel(
            sr=config.sample_rate,
            n_fft=config.n_fft,
            n_mels=config.n_mels,
            fmin=config.f_min,
            fmax=config.f_max,
            htk=config.scale == "htk",
            norm="slaney" if config.norm == "slaney" else None,
            dtype=np.float64,
        )
    guarded = filters @ energy + config.floor if config.guard == "add" else np.maximum(filters @ energy, config.floor)
    if config.reference == "max":
        guarded = guarded / guarded.max()
    mel = {"natural": np.log, "log10": np.log10, "none": lambda _: filters @ energy}[config.log](guarded)
    mel = config.multiplier * mel + config.offset
    if config.dynamic_range is not None:
        mel = np.maximum(mel, mel.max() - config.dynamic_range)
    mel = mel if config.clip is None else np.clip(mel, *config.clip)
    return (mel - np.reshape(config.mean, (-1, 1))) / np.reshape(config.std, (-1, 1))


VARIANTS = [
    HIFIGAN.model_copy(update={"name": "power 2", "power": 2}),
    HIFIGAN.model_copy(update={"name": "short window", "win_length": 800, "centre": "frame"}),
    HIFIGAN.model_copy(update={"name": "constant padding", "padding": "constant"}),
    HIFIGAN.model_copy(update={"name": "decibels", "log": "log10", "multiplier": 20.0, "offset": 3.0}),
    HIFIGAN.model_copy(update={"name": "high floor", "magnitude_floor": 1e-2}),
    HIFIGAN.model_copy(update={"name": "odd hop", "hop_length": 300}),
    HIFIGAN.model_copy(update={"name": "nothing padded", "centre": "window"}),
    HIFIGAN.model_copy(update={"name": "of int16", "full_scale": 32768.0}),
    HIFIGAN.model_copy(update={"name": "log1p", "guard": "add", "floor": 1.0}),
    HIFIGAN.model_copy(
        update={"name": "statistics", "mean": tuple(np.linspace(-6, -3, 80)), "std": tuple(np.linspace(1, 3, 80))}
    ),
]


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", "none"])
@pytest.mark.parametrize(
    ("sample_rate", "n_fft"), [(8000, 512), (16000, 800), (22050, 1024), (44100, 2047), (96000, 4096)]
)
def test_filters_equal_those_of_librosa(scale: str, norm: str, sample_rate: int, n_fft: int) -> None:
    for n_mels in (1, 20, 80, 128):
        for f_min, f_max in ((0, sample_rate / 2), (20, 3900), (55.5, 950), (1000, 3999.5)):
            config = HIFIGAN.model_copy(
                update=dict(sample_rate=sample_rate, n_fft=n_fft, n_mels=n_mels, f_min=f_min, f_max=f_max)
                | dict(scale=scale, norm=norm)
            )
            shared = {"fmin": f_min, "fmax": f_max, "htk": scale == "htk"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some are narrower than a bin
                ours = mel_filterbank(config)
                theirs = librosa.filters.mel(
                    sr=sample_rate,
                    n_fft=n_fft,
                    n_mels=n_mels,
                    norm=None if norm == "none" else norm,
                    dtype=float,
                    **shared,
                )
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)
            edges = librosa.mel_frequencies(n_mels + 2, **shared)
            np.testing.assert_allclose(mel_frequencies(config, n_mels + 2), edges, rtol=1e-12, atol=1e-9)


def test_the_window_is_that_of_scipy() -> None:
    for config in CONVENTIONS + VARIANTS:
        window = librosa.filters.get_window("hann", config.win_length, fftbins=config.window == "hann")
        np.testing.assert_allclose(MelSpectrogram(config).window, window, rtol=0, atol=1e-7)


def test_bins_that_are_always_silent_are_counted() -> None:
    config = HIFIGAN.model_copy(update={"n_mels": 400})
    with pytest.warns(UserWarning, match=r"(\d+) of the 400 bins of mel convention 'hifigan-22k'") as caught:
        filters = mel_filterbank(config)
    assert str(caught[0].message).startswith(f"{(filters.sum(1) == 0).sum()} of")


@pytest.mark.parametrize("config", CONVENTIONS + VARIANTS, ids=named)
@pytest.mark.parametrize("extra_samples", [0, 1, 200])
def test_mel_equals_librosa(config: MelConfig, extra_samples: int) -> None:
    audio = voice_like(config.sample_rate)[:, : 40 * config.hop_length + extra_samples]
    mel = MelSpectrogram(config)
    ours = mel(audio)
    theirs = reference_mel(audio[0].numpy(), config)
    assert ours.shape == (1, *theirs.shape) == (1, config.n_mels, mel.n_frames(audio.shape[-1]))
    assert ours.dtype == torch.float32
    assert not any(buffer.requires_grad for buffer in mel.buffers())
    # The log of nearly nothing magnifies the rounding of float32: compare logs where there is sound, values elsewhere.
    tolerance = 2e-4 * config.multiplier
    relative = 1e-4 if config.log == "none" else 0
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=tolerance, rtol=relative + 1e-7)


@pytest.mark.parametrize("config", [c for c in CONVENTIONS if c.magnitude_floor == 1e-9], ids=named)
def test_mel_equals_published_bigvgan(config: MelConfig) -> None:
    """BigVGAN's function is HiFi-GAN's with today's librosa and torch; it is published for all three conventions."""
    published = pytest.importorskip("bigvgan.meldataset")
    audio = voice_like(config.sample_rate)
    theirs = published.mel_spectrogram(
        audio, config.n_fft, config.n_mels, config.sample_rate, config.hop_length, config.win_length, config.f_min,
        config.f_max,
    )  # fmt: skip
    torch.testing.assert_close(MelSpectrogram(config)(audio), theirs, atol=2e-5, rtol=0)


def test_mel_equals_published_vocos() -> None:
    audio = voice_like(24000)
    theirs = published_module("vocos.feature_extractors").MelSpectrogramFeatures()(audio)
    ours = MelSpectrogram(MEL_CONVENTIONS["vocos-24k"])(audio)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_mel_equals_published_lmnt_diffwave(tmp_path, monkeypatch) -> None:
    preprocess = published_module("diffwave.preprocess")
    audio = (voice_like(22050) * 32767).round()
    monkeypatch.setattr(preprocess.T, "load_wav", lambda _: (audio, 22050), raising=False)
    preprocess.transform(str(tmp_path / "clip"))
    theirs = torch.from_numpy(np.load(tmp_path / "clip.spec.npy"))
    ours = MelSpectrogram(MEL_CONVENTIONS["lmnt"])(audio[0] / 32767.5)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def published_module(name: str):
    """Import a published implementation that imports torchaudio, or skip."""
    importlib.import_module("audiodiff.audio.resample").import_torchaudio()
    return pytest.importorskip(name)


def test_forward_keeps_leading_dimensions() -> None:
    mel = MelSpectrogram(HIFIGAN)
    audio = voice_like(22050)[0, :8192].reshape(2, 4, 1024)
    result = mel(audio)
    assert result.shape == (2, 4, 80, 4)
    torch.testing.assert_close(result[1, 2], mel(audio[1, 2]))
    assert mel(audio[0, 0]).shape == (80, 4)


def test_hop_centred_mel_has_one_frame_per_hop() -> None:
    mel = MelSpectrogram(HIFIGAN)
    assert [mel.n_frames(256 * k) for k in (2, 10, 100)] == [2, 10, 100]
    assert MelSpectrogram(MEL_CONVENTIONS["tacotron2"]).n_frames(2560) == 11


@pytest.mark.parametrize("config", CONVENTIONS, ids=named)
def test_gradient_is_finite_even_through_silence(config: MelConfig) -> None:
    audio = voice_like(config.sample_rate).requires_grad_()
    MelSpectrogram(config)(audio).sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()
    assert audio.grad.abs().max() > 0


def test_gradient_is_right() -> None:
    config = HIFIGAN.model_copy(update={"n_fft": 16, "win_length": 16, "hop_length": 8, "n_mels": 2})
    mel = MelSpectrogram(config).double()
    audio = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(mel, (audio,))


def test_autocast_changes_nothing() -> None:
    mel, audio = MelSpectrogram(HIFIGAN), voice_like(22050)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mel(audio)
    assert torch.equal(inside, mel(audio))


def test_buffers_are_not_saved() -> None:
    assert MelSpectrogram(HIFIGAN).state_dict() == {}


@pytest.mark.parametrize("config", CONVENTIONS + VARIANTS[:4], ids=named)
def test_to_magnitude_undoes_everything_but_floor_and_clip(config: MelConfig) -> None:
    audio = 0.5 * torch.randn(config.sample_rate // 2, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    mel = MelSpectrogram(config)
    window = torch.hann_window(config.win_length, config.window == "hann")
    emphasised = audio - config.pre_emphasis * torch.nn.functional.pad(audio[:-1], (1, 0))
    spectrum = torch.stft(
        torch.nn.functional.pad(emphasised[None], (mel.padding, mel.padding), mode=config.padding)[0],
        config.n_fft, config.hop_length, config.win_length, window, center=False, return_complex=True,
    ).abs()  # fmt: skip
    expected = (mel.filterbank @ spectrum**config.power) ** (1 / config.power)
    if config.reference == "max":
        expected = expected / expected.max()
    magnitude = mel.to_magnitude(mel(audio))
    not_clipped = mel(audio) < (config.clip or (0, 1e9))[1]
    torch.testing.assert_close(magnitude[not_clipped], expected[not_clipped], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", CONVENTIONS + VARIANTS[:1], ids=named)
def test_inverse_is_consistent_with_the_mel_and_near_the_spectrum(config: MelConfig) -> None:
    mel = MelSpectrogram(config)
    tone = 0.01 * torch.sin(2 * torch.pi * 3000 * torch.arange(config.sample_rate // 2) / config.sample_rate)
    magnitude = mel.inverse(mel(tone))
    assert magnitude.shape == (config.n_fft // 2 + 1, mel.n_frames(tone.numel()))
    loudest_hz = magnitude[:, 5].argmax() * config.sample_rate / config.n_fft
    assert abs(loudest_hz - 3000) < 120
    audio = 0.5 * voice_like(config.sample_rate)[0]
    magnitude = mel.inverse(mel(audio))
    assert magnitude.min() >= 0
    again = (mel.filterbank @ magnitude**config.power) ** (1 / config.power)
    error = (again - mel.to_magnitude(mel(audio))).norm() / again.norm()
    assert error < 0.06 * config.power**2


@pytest.mark.parametrize(("name", "n_samples"), [("hifigan-22k", 384), ("tacotron2", 512), ("lmnt", 0)])
def test_too_short_audio_is_refused(name: str, n_samples: int) -> None:
    mel = MelSpectrogram(MEL_CONVENTIONS[name])
    with pytest.raises(AudioError, match=rf"{n_samples} samples is too short for mel convention '{name}', .* at least"):
        mel(torch.zeros(1, n_samples))
    assert mel(torch.zeros(1, max(385, n_samples + 1) if name == "hifigan-22k" else 513)).isfinite().all()


def test_short_audio_with_constant_padding() -> None:
    mel = MelSpectrogram(VARIANTS[2])
    assert mel(torch.ones(256)).shape == (80, 1)
    with pytest.raises(AudioError, match="255 samples is too short"):
        mel(torch.ones(255))


def test_integer_audio_is_refused() -> None:
    with pytest.raises(AudioError, match=r"audio is torch.int16; expected floating point"):
        MelSpectrogram(HIFIGAN)(torch.zeros(22050, dtype=torch.int16))
    with pytest.raises(AudioError, match="0 samples"):
        MelSpectrogram(HIFIGAN)(torch.tensor(0.0))


@pytest.mark.parametrize("config", CONVENTIONS + VARIANTS, ids=named)
def test_check_mel_accepts_what_the_convention_makes(config: MelConfig) -> None:
    mel = MelSpectrogram(config)
    loud = 0.99 * torch.sign(voice_like(config.sample_rate))
    for audio in (torch.zeros_like(loud), voice_like(config.sample_rate), loud):
        check_mel(mel(audio), config)
        check_mel(mel(audio)[0], config)


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.full((100, 7), -3.0), r"shape \(100, 7\); expected \(n_mels, frames\) with n_mels = 80"),
        (torch.full((1, 7, 80), -3.0), r"shape \(1, 7, 80\), which is transposed; expected .*mel.transpose\(-2, -1\)"),
        (torch.full((80,), -3.0), r"shape \(80,\); expected"),
        (torch.full((1, 1, 80, 7), -3.0), r"shape \(1, 1, 80, 7\); expected"),
        (torch.zeros(80, 0), r"shape \(80, 0\), so it is empty"),
        (torch.full((80, 7), -3), "mel is torch.int64; expected floating point"),
        (torch.full((80, 7), float("nan")), "560 values that are NaN or infinite"),
        (torch.full((80, 7), -float("inf")), r"NaN or infinite; expected none. Was log\(0\) taken\?"),
        (torch.linspace(-80, 0, 560).reshape(80, 7), "from -80 to 0; .*'hifigan-22k' .* -11.5 .* is of another one"),
        (torch.linspace(0, 40, 560).reshape(80, 7), "from 0 to 40; .* is of another one"),
        (torch.linspace(-16, 1, 560).reshape(80, 7), "from -16 to 1; .* is of another one"),
    ],
)
def test_check_mel_refuses(mel: Tensor, message: str) -> None:
    with pytest.raises(MelError, match=message):
        check_mel(mel, HIFIGAN)


@pytest.mark.parametrize("config", CONVENTIONS, ids=named)
def test_no_sound_within_full_scale_is_out_of_range(config: MelConfig) -> None:
    low, high = mel_range(config)
    time = torch.arange(config.sample_rate) / config.sample_rate
    for audio in (torch.zeros_like(time), torch.ones_like(time), (2 * torch.pi * 440 * time).sin().sign()):
        mel = MelSpectrogram(config)(audio)
        assert low <= mel.min() + 1e-4
        assert mel.max() <= high + 1e-4


def test_the_range_of_a_convention_is_that_of_its_filters() -> None:
    low, high = mel_range(HIFIGAN)
    assert low == pytest.approx(math.log(1e-5))
    assert high == pytest.approx(math.log(512 * 2 / 43.07), abs=0.1)  # filters of area 1 in Hz, 21.5 Hz per bin
    with pytest.raises(MelError, match="to at most 3.2"):
        check_mel(MelSpectrogram(HIFIGAN)(32768 * 0.5 * voice_like(22050)), HIFIGAN)


def test_check_mel_refuses_natural_logs_where_lmnt_is_expected() -> None:
    mel = MelSpectrogram(HIFIGAN)(voice_like(22050))
    with pytest.raises(MelError, match="'lmnt' has them from 0"):
        check_mel(mel, MEL_CONVENTIONS["lmnt"])


def test_hops_are_paired_with_the_frames_around_them_or_with_the_one_at_their_beginning() -> None:
    convention = MEL_CONVENTIONS["lmnt"]
    mel = MelSpectrogram(convention)(voice_like(22050))
    as_published = convention.model_copy(update={"pairing": "frame"})
    torch.testing.assert_close(align_to_hops(mel, convention), (mel[..., 1:] + mel[..., :-1]) / 2)
    assert torch.equal(align_to_hops(mel, as_published), mel)
    hop_centred = MelSpectrogram(HIFIGAN)(voice_like(22050))
    assert torch.equal(align_to_hops(hop_centred, HIFIGAN), hop_centred)


def test_a_pairing_of_a_hop_centred_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match="pairing 'frame' is for centre 'frame'"):
        parse_config(MelConfig, HIFIGAN.model_dump() | {"pairing": "frame"}, "a test")


@pytest.mark.parametrize("convention", [config.name for config in CONVENTIONS if not config.only_given])
@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_frames_taken_in_parts_are_those_of_the_whole(convention, at_once, monkeypatch):
    mel = MelSpectrogram(MEL_CONVENTIONS[convention])
    audio = torch.rand(2, 9000, generator=torch.Generator().manual_seed(0)) - 0.5
    whole = mel(audio)
    monkeypatch.setattr("audiodiff.audio.mel._FRAMES_AT_ONCE", at_once)
    torch.testing.assert_close(mel(audio), whole)
