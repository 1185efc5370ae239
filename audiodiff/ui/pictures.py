"""Pictures for the page: one signal each, narrow enough for a phone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.plots import plot_mel, plot_waveform, save_figure
from audiodiff.config import MelConfig


class Scale(NamedTuple):
    """What two pictures have in common, so that they can be compared.

    Attributes:
        amplitude: Largest sample of the waveform.
        peak_db: Magnitude of the brightest colour.
    """

    amplitude: float
    peak_db: float


def draw_signal(
    path: Path, audio: Tensor, mel_config: MelConfig, *, colour: str = "#31688e", scale: Scale | None = None
) -> Scale:
    """Draw the first channel of a signal as waveform and mel spectrogram.

    Args:
        path: The picture, a .png file.
        audio: Samples `(channels, time)` at the convention's rate.
        mel_config: The convention to draw in.
        colour: Of the waveform.
        scale: Of another picture; None fits the signal.

    Returns:
        The scale.

    Raises:
        AudioError: If the audio is shorter than a frame.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    waveform, spectrogram = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.8))
    plot_waveform(waveform, audio[:1], mel_config.sample_rate, colour=colour)
    waveform.set_ylabel("amplitude")
    image = plot_mel(
        spectrogram, MelSpectrogram(mel_config)(audio[:1].detach().cpu()), mel_config, peak_db=scale and scale.peak_db
    )
    spectrogram.set_ylabel("frequency (kHz)")
    scale = scale or Scale(max(1e-3, 1.05 * float(audio[0].abs().max())), float(image.get_clim()[1]))
    waveform.set_ylim(-scale.amplitude, scale.amplitude)
    save_figure(figure, path)
    return scale


def draw_state(path: Path, audio: Tensor, mel_config: MelConfig, scale: Scale) -> None:
    """Draw the first channel of a signal as a mel spectrogram without axes, small, for one of many side by side."""
    figure = Figure(figsize=(2.4, 1.6))
    axes = figure.add_axes((0, 0, 1, 1))
    plot_mel(axes, MelSpectrogram(mel_config)(audio[:1].detach().cpu()), mel_config, peak_db=scale.peak_db)
    axes.set_axis_off()
    save_figure(figure, path)
