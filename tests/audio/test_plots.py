"""Pictures show what is in the audio: at the right time, at the right frequency, on scales with units."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.plots import comparison_figure, plot_mel, plot_waveform, save_figure
from audiodiff.config import MEL_CONVENTIONS
from audiodiff.errors import AudiodiffError, AudioError, MelError

CONFIG = MEL_CONVENTIONS["hifigan-22k"]
RATE = CONFIG.sample_rate


def beep(hertz: float, start: float = 0.4, stop: float = 0.6, seconds: float = 1.0) -> Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    return 0.5 * torch.sin(2 * torch.pi * hertz * time) * ((time >= start) & (time < stop))


def new_axes():
    return Figure().subplots()


@pytest.mark.parametrize("shape", [(500,), (1, 500)])
def test_short_waveform_is_drawn_sample_by_sample(shape: tuple[int, ...]) -> None:
    axes, audio = new_axes(), torch.randn(shape)
    plot_waveform(axes, audio, 100)
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(x, np.arange(500) / 100)
    np.testing.assert_array_equal(y, audio.flatten().numpy())
    assert axes.get_xlim() == (0, 5)
    assert axes.get_ylabel() == "amplitude (full scale 1)"


def test_outline_of_long_waveform_keeps_every_extreme() -> None:
    axes, audio = new_axes(), torch.zeros(100_000)
    audio[12_345], audio[77_777] = 0.9, -0.7
    plot_waveform(axes, audio, RATE)
    outline = axes.collections[0].get_paths()[0].vertices
    assert outline[:, 1].max() == pytest.approx(0.9)
    assert outline[:, 1].min() == pytest.approx(-0.7)
    assert outline[outline[:, 1].argmax(), 0] == pytest.approx(12_345 / RATE, abs=60 / RATE)
    assert outline[outline[:, 1].argmin(), 0] == pytest.approx(77_777 / RATE, abs=60 / RATE)


@pytest.mark.parametrize("name", ["hifigan-22k", "tacotron2", "lmnt"])
def test_mel_is_bright_where_the_tone_is(name: str) -> None:
    config, axes = MEL_CONVENTIONS[name], new_axes()
    image = plot_mel(axes, MelSpectrogram(config)(beep(1000)[None]), config)
    values = image.get_array()
    left, right, bottom, top = image.get_extent()
    mel_bin, frame = np.unravel_index(values.argmax(), values.shape)
    seconds = left + (frame + 0.5) * (right - left) / values.shape[1]
    assert 0.39 < seconds < 0.61
    tick = {text.get_text(): position for position, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    height = bottom + (mel_bin + 0.5) * (top - bottom) / values.shape[0]
    assert abs(height - tick["1"]) < 1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "frequency (kHz, mel scale)")


def test_onset_is_at_the_same_time_in_either_centring() -> None:
    """A click is in the frame whose middle is nearest to it, whatever the convention calls that frame."""
    click = torch.zeros(1, RATE)
    click[0, 10_000] = 1
    for name in ("hifigan-22k", "tacotron2"):
        image = plot_mel(new_axes(), MelSpectrogram(MEL_CONVENTIONS[name])(click), MEL_CONVENTIONS[name])
        left, right, *_ = image.get_extent()
        loudness = image.get_array().sum(0)
        seconds = left + (loudness.argmax() + 0.5) * (right - left) / loudness.size
        assert abs(seconds - 10_000 / RATE) <= 128.5 / RATE


def test_same_magnitudes_look_the_same_in_every_convention() -> None:
    """tacotron2 with the logarithm of another base and scale is the same picture."""
    natural = MEL_CONVENTIONS["tacotron2"]
    other = natural.model_copy(update={"log": "log10", "multiplier": 20.0, "offset": -20.0})
    audio = beep(500)[None]
    images = [plot_mel(new_axes(), MelSpectrogram(c)(audio), c).get_array() for c in (natural, other)]
    np.testing.assert_allclose(images[0], images[1], atol=1e-3)


def test_peak_sets_the_colours() -> None:
    mel = MelSpectrogram(CONFIG)(beep(500))
    assert plot_mel(new_axes(), mel, CONFIG, peak_db=10.0).get_clim() == (-70.0, 10.0)
    loudest = plot_mel(new_axes(), mel, CONFIG).get_clim()[1]
    assert loudest == pytest.approx(20 * np.log10(float(MelSpectrogram(CONFIG).to_magnitude(mel).max())))


def test_comparison_has_four_panels_on_common_scales() -> None:
    figure = comparison_figure(beep(1000)[None], 0.1 * beep(2000, seconds=1.2), RATE, CONFIG)
    panels = figure.axes[:4]
    assert [panel.get_title().split(",")[0] for panel in panels[:2]] == ["Reference", "Generated"]
    assert len({panel.get_xlim() for panel in panels}) == 1
    assert panels[0].get_xlim() == (0, 1.2)
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[2].images[0].get_clim() == panels[3].images[0].get_clim()
    assert figure.axes[4].get_ylabel() == "mel magnitude (dB)"


def test_figure_is_written_whole_and_replaces_what_was_there(tmp_path) -> None:
    figure = comparison_figure(beep(1000), beep(1000), RATE, CONFIG)
    save_figure(figure, tmp_path / "x.png")
    save_figure(figure, str(tmp_path / "x.png"))
    picture = imread(tmp_path / "x.png")
    assert picture.shape[:2] == (900, 1800)
    assert picture[..., :3].std() > 0.1
    assert list(tmp_path.iterdir()) == [tmp_path / "x.png"]


def test_what_cannot_be_drawn_is_refused(tmp_path) -> None:
    with pytest.raises(AudioError, match=r"shape \(2, 50\); expected \(time,\) or \(1, time\)"):
        plot_waveform(new_axes(), torch.zeros(2, 50), RATE)
    with pytest.raises(AudioError, match="1 samples that are NaN or infinite"):
        plot_waveform(new_axes(), torch.tensor([0.0, float("nan")]), RATE)
    with pytest.raises(MelError, match=r"mel has shape \(7, 80\); expected \(80, frames\)"):
        plot_mel(new_axes(), torch.zeros(7, 80), CONFIG)
    with pytest.raises(AudioError, match="audio is 16000 Hz; mel convention 'hifigan-22k' needs 22050 Hz"):
        comparison_figure(beep(500), beep(500), 16000, CONFIG)
    with pytest.raises(AudiodiffError, match=r"x\.bmp: use \.png, \.svg or \.pdf\."):
        save_figure(Figure(), tmp_path / "x.bmp")
    (tmp_path / "none").touch()
    with pytest.raises(AudiodiffError, match="none cannot be written: File exists. It is a file; expected a folder"):
        save_figure(Figure(), tmp_path / "none" / "x.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "none"]


def test_pyplot_is_never_imported(tmp_path) -> None:
    script = """
import sys, torch
from audiodiff.audio.plots import comparison_figure, save_figure
from audiodiff.config import MEL_CONVENTIONS
audio = torch.zeros(8192)
save_figure(comparison_figure(audio, audio, 22050, MEL_CONVENTIONS["hifigan-22k"]), sys.argv[1])
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "x.svg")]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0
