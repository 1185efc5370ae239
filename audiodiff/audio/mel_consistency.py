"""Waveforms brought to the mel that they are to have, band by band and frame by frame."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from audiodiff.audio.mel import MelSpectrogram, align_to_hops
from audiodiff.audio.mel_inversion import bands_to_bins
from audiodiff.audio.transforms import FramedSTFT
from audiodiff.audio.whitening import Whitening

MAX_LOG_GAIN = 2.0
"""Largest change of a bin, in nepers (17 dB): what is farther off was not meant to be there, and is mostly noise."""


class MelConsistency(nn.Module):
    """Multiply the spectrum of a signal by what its mel lacks, and keep its phases.

    A network is a little off its mel, and makes too little of what it is unsure of; the mel says how much there is to
    be. Liu et al. 2024 ("GLA-Grad") bring the predictions of WaveGrad to their mel by rounds of Griffin-Lim; here the
    network's phases are kept, and one multiplication does.

    Args:
        spectrogram: What makes the mels.
        whitening: What is divided out of the signals of the reverse process.
    """

    def __init__(self, spectrogram: MelSpectrogram, whitening: Whitening) -> None:
        super().__init__()
        self.spectrogram, self.whitening = spectrogram, whitening

    @cached_property
    def stft(self) -> FramedSTFT:
        """The STFT that is multiplied; a ConfigError where hops do not divide its window."""
        config = self.spectrogram.config
        return FramedSTFT(config.n_fft, config.hop_length).to(self.spectrogram.window.device)

    @cached_property
    def weights(self) -> Tensor:
        """Weights `(n_mels, n_bins)` that interpolate between bands."""
        with torch.inference_mode(False):
            return bands_to_bins(self.spectrogram)

    def look_ahead(self, beyond: int) -> int:
        """Return how many samples beyond the end of a hop decide the sample that lies `beyond` after it.

        They are those of the frames that overlap it, and what the mel of these frames sees. Looking back is the same.
        """
        config, stft = self.spectrogram.config, self.stft
        last_frame = -(-(beyond + stft.margin) // stft.hop_length) * stft.hop_length
        return last_frame + (stft.margin if config.centre == "hop" else stft.n_fft // 2)

    def mel(self, audio: Tensor) -> Tensor:
        """Compute mels `(batch, n_mels, n_frames)` with one frame per hop of signals `(batch, time)`."""
        return align_to_hops(self.spectrogram(audio), self.spectrogram.config)

    def forward(self, audio: Tensor, mel: Tensor) -> Tensor:
        """Bring waveforms to a mel.

        Args:
            audio: Waveforms `(batch, 1, n_frames * hop_length)`.
            mel: Mels with one frame per hop `(batch, n_mels, n_frames)`.

        Returns:
            Waveforms of the shape of `audio`; as they are if too short for a mel.
        """
        if audio.shape[2] < self.stft.n_fft:
            return audio
        gain = self.gain(mel, self.mel(audio[:, 0]))
        return self.stft.inverse(self.stft(audio[:, 0]) * gain).unsqueeze(1)

    def gain(self, wanted: Tensor, found: Tensor) -> Tensor:
        """Return the gain `(batch, n_frames, n_bins)` from one mel to another `(batch, n_mels, n_frames)`."""
        log_gain = self.spectrogram.to_magnitude(wanted).log() - self.spectrogram.to_magnitude(found).log()
        return (log_gain.clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN).mT @ self.weights).exp()

    def whitened(self, signal: Tensor, mel: Tensor) -> Tensor:
        """Do the same with whitened signals."""
        return self.whitening.whiten(self(self.whitening.colour(signal, mel), mel), mel)
