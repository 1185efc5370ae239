"""Plots of audio: waveforms and mel spectrograms, alone or an input beside an output.

Only matplotlib's objects are used, never pyplot: drawing needs no screen, works in threads, and leaves nothing open.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio.io import replacing
from audiodiff.audio.mel import MelSpectrogram, mel_frequencies
from audiodiff.config import MelConfig
from audiodiff.errors import AudiodiffError, AudioError, MelError

_COLUMNS = 2000
"""Waveforms of more samples than four times this are drawn as an outline of so many columns."""
_RANGE_DB = 80.0
_TICKS_HZ = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)


def plot_waveform(axes: Axes, audio: Tensor, sample_rate: int, *, colour: str = "#31688e") -> None:
    """Draw samples over time; long audio as the outline between the lowest and highest sample of each column.

    Args:
        axes: Where to draw.
        audio: Samples of one channel, shape `(time,)` or `(1, time)`.
        sample_rate: In Hz.
        colour: Any colour of matplotlib.

    Raises:
        AudioError: If there is more than one channel, no sample, or a sample that is not finite.
    """
    samples = _one_channel(audio)
    if samples.size <= 4 * _COLUMNS:
        axes.plot(np.arange(samples.size) / sample_rate, samples, color=colour, linewidth=0.7)
    else:
        first = np.linspace(0, samples.size, _COLUMNS, endpoint=False).astype(int)
        low, high = np.minimum.reduceat(samples, first), np.maximum.reduceat(samples, first)
        # Wide enough to be seen even where a signal stands still.
        axes.fill_between(first / sample_rate, low, high, color=colour, linewidth=0.4)
    axes.set_xlim(0, samples.size / sample_rate)
    axes.set_ylabel("amplitude (full scale 1)")
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def plot_mel(axes: Axes, mel: Tensor, config: MelConfig, *, peak_db: float | None = None) -> AxesImage:
    """Draw a mel spectrogram over time and frequency, its magnitudes in dB.

    Args:
        axes: Where to draw.
        mel: Mel values of this convention, shape `(n_mels, frames)` or `(1, n_mels, frames)`.
        config: The convention.
        peak_db: Magnitude of the brightest colour, in dB; the darkest is 80 dB below. None takes the loudest value.

    Returns:
        The image, for a colour bar.

    Raises:
        MelError: If the shape does not fit the convention.
    """
    if mel.ndim == 3 and mel.shape[0] == 1:
        mel = mel[0]
    if mel.ndim != 2 or mel.shape[0] != config.n_mels or mel.shape[1] == 0:
        raise MelError(f"mel has shape {tuple(mel.shape)}; expected ({config.n_mels}, frames). Draw one at a time.")
    values = _decibels(mel, config)
    peak_db = float(values.max()) if peak_db is None else peak_db
    hop_seconds = config.hop_length / config.sample_rate
    start = 0.0 if config.centre == "hop" else -hop_seconds / 2
    image = axes.imshow(
        values,
        extent=(start, start + values.shape[1] * hop_seconds, -0.5, config.n_mels - 0.5),
        vmin=peak_db - _RANGE_DB,
        vmax=peak_db,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
    )
    bins, labels = _frequency_ticks(config)
    axes.set_yticks(bins, labels)
    axes.set_ylabel("frequency (kHz, mel scale)")
    axes.set_xlabel("time (s)")
    return image


def display_mel(sample_rate: int) -> MelConfig:
    """Return a mel convention to draw audio of any rate in: 80 bins up to half the rate, frames of 46 ms."""
    n_fft = max(256, 2 ** round(math.log2(sample_rate * 0.046)))
    return MelConfig(
        name="display",
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=n_fft // 4,
        win_length=n_fft,
        n_mels=80,
        f_min=0,
        f_max=sample_rate / 2,
    )


def comparison_figure(reference: Tensor, generated: Tensor, sample_rate: int, mel_config: MelConfig) -> Figure:
    """Draw waveform and log-mel spectrogram of an input beside those of an output, on the same scales.

    Args:
        reference: Input samples of one channel, shape `(time,)` or `(1, time)`.
        generated: Output samples, likewise.
        sample_rate: Of both, in Hz; must be the convention's.
        mel_config: The mel convention to draw in.

    Returns:
        A figure of two by two panels with one time axis.

    Raises:
        AudioError: If the rates differ, or audio has several channels, is too short or is not finite.
    """
    if sample_rate != mel_config.sample_rate:
        raise AudioError(
            f"audio is {sample_rate} Hz; mel convention {mel_config.name!r} needs {mel_config.sample_rate} Hz. "
            "Use audiodiff.audio.resample."
        )
    spectrogram = MelSpectrogram(mel_config)
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1, 1.6))
    peak_db = None
    for column, (title, audio, colour) in enumerate(
        (("Reference", reference, "#31688e"), ("Generated", generated, "#a8327d"))
    ):
        waveform, spectrogram_axes = panels[:, column]
        plot_waveform(waveform, audio, sample_rate, colour=colour)
        waveform.set_title(f"{title}, {audio.shape[-1] / sample_rate:.2f} s", fontweight="bold")
        image = plot_mel(spectrogram_axes, spectrogram(audio.detach().cpu()), mel_config, peak_db=peak_db)
        peak_db = image.get_clim()[1]  # the output is drawn in the colours of the input
        waveform.label_outer()
        spectrogram_axes.label_outer()
    panels[0, 0].set_xlim(0, max(reference.shape[-1], generated.shape[-1]) / sample_rate)
    figure.colorbar(image, ax=panels[1, :], pad=0.01, label="mel magnitude (dB)")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure under a temporary name and rename it.

    Args:
        figure: The figure.
        path: The file; its extension decides the format, such as .png, .pdf or .svg.

    Raises:
        AudiodiffError: If matplotlib cannot write that format, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    known = sorted(figure.canvas.get_supported_filetypes())
    if kind not in known:
        raise AudiodiffError(f"{path}: use .png, .svg or .pdf.")
    with replacing(path) as part:
        figure.savefig(part, format=kind, dpi=150)


def _one_channel(audio: Tensor) -> NDArray[np.float32]:
    if audio.ndim > 2 or audio.numel() != audio.shape[-1] or audio.numel() == 0:
        raise AudioError(f"audio has shape {tuple(audio.shape)}; expected (time,) or (1, time). Draw one at a time.")
    if n_bad := int((~audio.isfinite()).sum()):
        raise AudioError(f"audio has {n_bad} samples that are NaN or infinite; cannot draw them.")
    samples: NDArray[np.float32] = audio.detach().cpu().float().reshape(-1).numpy()
    return samples


def _decibels(mel: Tensor, config: MelConfig) -> NDArray[np.float32]:
    magnitude = MelSpectrogram(config).to_magnitude(mel.detach().cpu().float())
    values: NDArray[np.float32] = (20 * magnitude.clamp(min=1e-10).log10()).numpy()
    return values


def _frequency_ticks(config: MelConfig) -> tuple[list[float], list[str]]:
    """Return where on the axis of mel bins round frequencies lie, and their names in kHz."""
    centres = mel_frequencies(config, config.n_mels + 2)[1:-1]
    shown = [hertz for hertz in _TICKS_HZ if centres[0] <= hertz <= centres[-1]]
    bins = np.interp(shown, centres, np.arange(config.n_mels))
    return [float(position) for position in bins], [f"{hertz / 1000:g}" for hertz in shown]
