"""A vocoder takes mels of another convention, whole and in streams."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_convention_files import named_convention
from audiodiff.config import MEL_CONVENTIONS
from audiodiff.errors import ConfigError, DataError, MelError
from audiodiff.pipelines import Vocoder
from audiodiff.pipelines.push_stream import PushStream

sys.path.append(str(Path(__file__).parents[1]))
from mel_signals import voice_like


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    return Vocoder.from_pretrained(device="cpu", dtype="fp32")


def test_an_exact_conversion_gives_the_same_audio(vocoder: Vocoder) -> None:
    audio = voice_like(22050)[0]
    other = MelSpectrogram(MEL_CONVENTIONS["matcha"])(audio[: len(audio) // 256 * 256])
    own = MelSpectrogram(vocoder.mel_config)(audio[: len(audio) // 256 * 256])
    converted = vocoder.with_mel_convention("matcha")(other, steps=2)
    torch.testing.assert_close(converted, vocoder(own, steps=2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["matcha", "tacotron2", "parallel_wavegan"])
def test_a_stream_gives_what_a_call_gives(vocoder: Vocoder, name: str) -> None:
    mel = MelSpectrogram(MEL_CONVENTIONS[name])(voice_like(22050))[0]
    given = vocoder.with_mel_convention(name)
    streamed = torch.cat(list(given.stream(mel.split(7, dim=-1), chunk_seconds=0.2, steps=2)))
    torch.testing.assert_close(streamed, given(mel, steps=2), atol=1e-3, rtol=0)
    assert given.latency(0.2) == vocoder.latency(0.2)


@pytest.mark.parametrize(("centre", "late"), [("frame", 128), ("hop", 0), ("window", -384)])
def test_audio_is_in_time_wherever_frames_are_centred(vocoder: Vocoder, centre: str, late: int) -> None:
    """A click is where it was, to within what a mel tells; pushed and pulled as well."""
    audio = 1e-3 * torch.randn(22050, generator=torch.Generator().manual_seed(0))
    audio[8000:8040] = 0.8
    config = vocoder.mel_config.model_copy(update={"centre": centre, "magnitude_floor": 0.0})
    given = vocoder.with_mel_convention(config)
    assert given.given.delay == late
    mel = MelSpectrogram(config)(audio)
    made = given(mel, steps=1)
    at = torch.arange(len(made)) / made.square().sum()
    assert float((at * made.square()).sum()) == pytest.approx(8020, abs=40)
    stream = PushStream(given, chunk_seconds=0.1, steps=1)
    pulled = []
    for piece in mel.split(3, dim=-1):
        stream.push(piece)
        while stream.ready and (audio := stream.pull()) is not None:
            pulled.append(audio)
    stream.end()
    while (audio := stream.pull()) is not None:
        pulled.append(audio)
    torch.testing.assert_close(torch.cat(pulled), made, atol=1e-3, rtol=0)


def test_another_rate_needs_resample_and_no_stream(vocoder: Vocoder) -> None:
    mel = MelSpectrogram(MEL_CONVENTIONS["speecht5"])(voice_like(16000))[0]
    with pytest.raises(MelError, match="--resample"):
        vocoder.with_mel_convention("speecht5")
    given = vocoder.with_mel_convention("speecht5", resample=True)
    assert len(given(mel, steps=1)) / 22050 == pytest.approx(0.6, abs=0.03)
    with pytest.raises(ConfigError, match="converted as a whole only"):
        list(given.stream([mel]))
    with pytest.raises(ConfigError, match="converted as a whole only"):
        given.latency()


def test_the_own_convention_is_taken_again(vocoder: Vocoder) -> None:
    assert vocoder.with_mel_convention("matcha").with_mel_convention(None).given.config == vocoder.mel_config


def test_a_file_names_a_convention_by_what_differs(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: parallel_wavegan\nmean: -2.5\nstd: 0.7\n")
    config = named_convention(str(path))
    assert (config.name, config.mean, config.std, config.f_min, config.log) == ("mine", -2.5, 0.7, 80, "log10")
    path.write_text("base: nobody\n")
    with pytest.raises(DataError, match="unknown mel convention 'nobody'"):
        named_convention(str(path))
    path.write_text("- 1\n")
    with pytest.raises(DataError, match="no fields of a mel convention"):
        named_convention(str(path))


def test_statistics_of_other_toolkits_are_read_beside_the_file(tmp_path) -> None:
    mels = np.random.default_rng(0).normal(np.linspace(-3, -1, 80), np.linspace(0.5, 1, 80), (1000, 80))
    np.save(tmp_path / "stats.npy", np.stack([mels.mean(0), mels.std(0)]).astype(np.float32))
    np.savez(tmp_path / "feats_stats.npz", count=len(mels), sum=mels.sum(0), sum_square=np.square(mels).sum(0))
    for file in ("stats.npy", "feats_stats.npz"):
        (tmp_path / "mine.yaml").write_text(f"base: espnet\nstatistics: {file}\n")
        config = named_convention(str(tmp_path / "mine.yaml"))
        np.testing.assert_allclose(config.mean, mels.mean(0), atol=1e-5)
        np.testing.assert_allclose(config.std, mels.std(0), atol=1e-5)
    for file, content in (("a.npy", np.zeros(80)), ("b.npy", np.zeros((2, 3, 4))), ("c.npy", np.full((2, 80), np.nan))):
        np.save(tmp_path / file, content)
        (tmp_path / "mine.yaml").write_text(f"base: espnet\nstatistics: {file}\n")
        with pytest.raises(DataError, match=rf"{file} holds no statistics of a mel: expected .npy of shape"):
            named_convention(str(tmp_path / "mine.yaml"))
    np.save(tmp_path / "d.npy", np.ones((2, 20)))
    (tmp_path / "mine.yaml").write_text("base: espnet\nstatistics: d.npy\n")
    with pytest.raises(ConfigError, match="mean has 20 values; expected one number, or 80, one per bin"):
        named_convention(str(tmp_path / "mine.yaml"))
