"""What is known of a signal from its mel spectrogram is divided out before diffusion and multiplied back after it.

This is the data-dependent prior as a pair of functions: diffusion always starts from N(0, I), and neither sampler nor
loss knows that a prior exists. `energy` divides by the standard deviation of each frame, which equals the weighted loss
of PriorGrad (Lee et al. 2022); `spectral` divides every frequency by its envelope, the aim of SpecGrad (Koizumi et al.
2022), here exactly invertible because it acts on the coefficients of an orthonormal lapped transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.transforms import MDCT
from audiodiff.config import MelConfig, WhiteningConfig
from audiodiff.errors import ConfigError

ENVELOPE_FLOOR = 1e-4
"""Smallest envelope, as a standard deviation of full scale (-80 dB); keeps silence from being blown up."""
_TINY = 1e-10
"""Keeps a division finite where there is neither signal nor noise."""


class Whitening(nn.Module):
    """The pair `whiten` and `colour` for one mel convention.

    Args:
        config: Which whitening, how much of it, and the gain measured on training data.
        mel: The convention of the mels that it will be given; None is allowed for kind `none` only.
    """

    gain: Tensor
    bands: Tensor

    def __init__(self, config: WhiteningConfig, mel: MelConfig | None) -> None:
        super().__init__()
        self.config = config
        n_bands = mel.hop_length if mel is not None and config.kind == "spectral" else 1
        if len(config.gain) not in (1, n_bands):
            raise ConfigError(
                f"whitening {config.kind!r} has {n_bands} gains, the configuration brings {len(config.gain)}"
            )
        self.register_buffer("gain", torch.tensor(config.gain).expand(n_bands).clone(), persistent=False)
        if mel is None or config.kind == "none":
            return
        self.spectrogram = MelSpectrogram(mel)
        self.transform = MDCT(mel.hop_length)
        self.register_buffer("bands", _band_weights(self.spectrogram, mel.hop_length), persistent=False)

    def envelope(self, mel: Tensor) -> Tensor:
        """Estimate the standard deviation of every lapped-transform coefficient from the mel.

        Args:
            mel: Mel spectrogram, one frame per hop `(batch, n_mels, frames)`.

        Returns:
            Standard deviations `(batch, frames, hop_length)`, in full scale.
        """
        log_density = torch.log(self.spectrogram.to_magnitude(mel).clamp_min(1e-8)) - self.level
        return torch.exp(log_density.transpose(1, 2) @ self.bands).clamp_min(ENVELOPE_FLOOR)

    def whiten(self, audio: Tensor, mel: Tensor | None) -> Tensor:
        """Divide by the envelope estimated from the mel.

        Args:
            audio: Waveforms `(batch, 1, frames * hop_length)`.
            mel: Mel spectrograms `(batch, n_mels, frames)`; not looked at by kind `none`.

        Returns:
            Whitened waveforms of the shape of `audio`.
        """
        return self._filter(audio, mel, lambda envelope: envelope.pow(-self.config.exponent) * self.gain)

    def colour(self, signal: Tensor, mel: Tensor | None) -> Tensor:
        """Multiply by the envelope estimated from the mel: the exact inverse of `whiten`, shapes alike."""
        return self._filter(signal, mel, lambda envelope: envelope.pow(self.config.exponent) * (1 / self.gain))

    def shrink(self, audio: Tensor, mel: Tensor | None, *, signal_deviation: float, noise_deviation: float) -> Tensor:
        """Keep of every coefficient what is not white noise, by the envelope estimated from the mel: a Wiener filter.

        Args:
            audio: Waveforms `(batch, 1, frames * hop_length)`.
            mel: As in `whiten`.
            signal_deviation: Standard deviation of the wanted signal once it is whitened.
            noise_deviation: Standard deviation of the noise, in full scale.

        Returns:
            Waveforms of the shape of `audio`.
        """

        def gain(envelope: Tensor) -> Tensor:
            wanted = (signal_deviation * envelope.pow(self.config.exponent) / self.gain).square()
            return wanted / (wanted + max(noise_deviation, _TINY) ** 2)

        return self._filter(audio, mel, gain)

    def log_scale(self, mel: Tensor | None) -> Tensor:
        """Return the mean logarithm of what `whiten` multiplies by, frame by frame.

        The lapped transform is orthonormal, so its sum over all samples is the log-determinant of `whiten`.

        Args:
            mel: As in `whiten`.

        Returns:
            `(batch, frames)`; `(1, 1)` for kind `none`.

        Raises:
            ConfigError: If there is no mel, and the kind needs one.
        """
        if self.config.kind == "none":
            return self.gain.log().view(1, 1)
        envelope = self._envelope_of(mel)
        if self.config.kind == "energy":
            return -self.config.exponent * envelope.square().mean(-1).sqrt().log() + self.gain.log()
        return (self.gain.log() - self.config.exponent * envelope.log()).mean(-1)

    def _envelope_of(self, mel: Tensor | None) -> Tensor:
        if mel is None:
            raise ConfigError(f"whitening {self.config.kind!r} needs a mel, none was given")
        return self.envelope(mel)

    def _filter(self, audio: Tensor, mel: Tensor | None, weight: Callable[[Tensor], Tensor]) -> Tensor:
        """Multiply the coefficients by weights that a function finds from the envelope `(batch, frames, n_bands)`."""
        if self.config.kind == "none":
            return audio * weight(torch.ones_like(self.gain))
        envelope = self._envelope_of(mel)
        if self.config.kind == "energy":
            deviation = weight(envelope.square().mean(-1).sqrt())
            return audio * deviation.repeat_interleave(self.transform.hop_length, -1).unsqueeze(1)
        coefficients = self.transform(audio[:, 0]) * weight(envelope)
        return self.transform.inverse(coefficients).unsqueeze(1)

    @property
    def level(self) -> Tensor:
        """Log of what white noise of unit variance reads as in each linear mel band, shape `(n_mels, 1)`.

        A root mean square; mels of power 1 read a constant 1.05 dB less, which the measured gain takes in.
        """
        config = self.spectrogram.config
        return torch.log(self.spectrogram.filterbank.sum(1, keepdim=True)) / config.power + math.log(config.hann_norm)


def _band_weights(spectrogram: MelSpectrogram, n_coefficients: int) -> Tensor:
    """Interpolate linearly in frequency between the centres of mel bands, constant beyond the outermost.

    Returns:
        Weights `(n_mels, n_coefficients)`, each column summing to 1.

    Raises:
        ConfigError: If the bands are too narrow for the STFT to tell their centres apart.
    """
    filters = spectrogram.filterbank.double()
    nyquist = spectrogram.config.sample_rate / 2
    bins = torch.linspace(0, nyquist, filters.shape[1], dtype=torch.float64)
    centres = (filters @ bins) / filters.sum(1)
    if not bool((centres.diff() > 0).all()):  # also false where an empty filter has made one NaN
        raise ConfigError(
            f"n_mels {len(centres)} is too many for n_fft {spectrogram.config.n_fft}: some filters hold no bin "
            "of their own, so there is no envelope to whiten by. Use fewer mels, a larger n_fft, or whitening 'none'."
        )
    frequency = (torch.arange(n_coefficients, dtype=torch.float64) + 0.5) * nyquist / n_coefficients
    right = torch.searchsorted(centres, frequency).clamp(1, len(centres) - 1)
    fraction = ((frequency - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
    weights = torch.zeros(len(centres), n_coefficients, dtype=torch.float64)
    column = torch.arange(n_coefficients)
    weights[right - 1, column] = 1 - fraction
    weights[right, column] += fraction
    return weights.float()
