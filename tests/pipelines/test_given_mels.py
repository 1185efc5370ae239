"""A vocoder takes mels of another convention, whole and in streams."""

from __future__ import annotations

import pytest
import torch

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MEL_CONVENTIONS
from audiodiff.data.mels import named_convention
from audiodiff.errors import ConfigError, DataError, MelError
from audiodiff.pipelines import Vocoder
from tests.audio.test_mel import voice_like


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
    hop = vocoder.mel_config.hop_length / vocoder.sample_rate
    more = given.latency(0.2) - vocoder.latency(0.2)
    assert more == pytest.approx(0 if name == "matcha" else hop)


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
