"""The pipelines as modules of tensors alone, which exporters can follow: whole, and one network call alone.

They run the code of the library. Rewritten is what no exporter knows: FFTs are products with Fourier bases, complex
numbers are pairs, and phases are handed on from frame to frame in steps that double.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from audiodiff.audio.mel import MelSpectrogram, align_to_hops, compress
from audiodiff.audio.mel_consistency import MelConsistency
from audiodiff.audio.mel_inversion import (
    limit_energy,
    lowest_square,
    magnitude_from_mel,
    random_phases,
)
from audiodiff.audio.phase_gradient import PhaseGradient, double_phases
from audiodiff.audio.transforms import FramedSTFT
from audiodiff.config import MelConfig, SynthesisConfig
from audiodiff.diffusion.process import Prediction, diffuse
from audiodiff.diffusion.samplers import SAMPLERS, NoiseSource, Predictor
from audiodiff.diffusion.variance import prediction_from
from audiodiff.errors import ConfigError
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.pipelines.base import Pipeline
from audiodiff.pipelines.finish import Finish
from audiodiff.pipelines.generator import Generator
from audiodiff.pipelines.mel_initialisation import PHASE_DRAW
from audiodiff.pipelines.settings import make_corrector
from audiodiff.pipelines.vocoder import Vocoder

DOUBLINGS = 14
"""Phases are handed on in so many steps, so that a mel has at most 2^14 frames: 3 minutes of 256 samples at 22 kHz."""
_PARTS = 4
"""Into how many parts products with mel filters are cut: most of the whole matrix is zero."""
_TINIEST = 1e-10
"""Keeps divisions finite, as in `MelSpectrogram.inverse`."""


class Spectrum(NamedTuple):
    """A complex spectrum as a pair, each `(batch, n_frames, n_bins)`."""

    real: Tensor
    imag: Tensor


class MatrixSTFT(FramedSTFT):
    """`FramedSTFT` by matrix products. A window is its own mirror image, so half of a frame is multiplied at a time."""

    even: Tensor
    odd: Tensor
    even_back: Tensor
    odd_back: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__(n_fft, hop_length)
        half = n_fft // 2
        sample, frequency = torch.arange(1, half + 1, dtype=torch.float64), torch.arange(half + 1, dtype=torch.float64)
        angle = sample[:, None] * frequency * (2 * math.pi / n_fft)
        window = self.window[1 : half + 1, None].double()
        self.register_buffer("even", (window * angle.cos()).float(), persistent=False)
        self.register_buffer("odd", (-window * angle.sin()).float()[:-1], persistent=False)
        weight = torch.full((half + 1,), 2 / n_fft, dtype=torch.float64)
        weight[0] = weight[-1] = 1 / n_fft
        self.register_buffer("even_back", (window * angle.cos() * weight).float().T.contiguous(), persistent=False)
        self.register_buffer("odd_back", (-window * angle.sin() * weight).float()[:-1].T.contiguous(), persistent=False)

    def analyse(self, samples: Tensor) -> Spectrum:  # type: ignore[override]
        """Transform as `FramedSTFT.analyse` does."""
        hops, half = samples.unflatten(1, (-1, self.hop_length)), self.n_fft // 2
        overlap = self.n_fft // self.hop_length
        n_frames = hops.shape[1] - overlap + 1
        frames = torch.cat([hops[:, i : i + n_frames] for i in range(overlap)], dim=2)
        before, after = frames[..., 1:half], frames[..., half + 1 :].flip(2)
        even = torch.cat([before + after, frames[..., half : half + 1]], dim=2)
        return Spectrum(even @ self.even, (before - after) @ self.odd)

    def windowed(self, spectrum: Spectrum) -> Tensor:  # type: ignore[override]
        """Transform back as `FramedSTFT.windowed` does; the first sample of a Hann window is zero."""
        even = spectrum.real @ self.even_back.to(spectrum.real)
        odd = spectrum.imag @ self.odd_back.to(spectrum.imag)
        before, after = even[..., :-1] + odd, (even[..., :-1] - odd).flip(2)
        return torch.cat([torch.zeros_like(odd[..., :1]), before, even[..., -1:], after], dim=2)

    def with_magnitude(self, spectrum: Spectrum, magnitude: Tensor) -> Tensor:
        """Return the signal `(batch, time)` closest to a spectrum with its magnitudes replaced."""
        square = torch.maximum(spectrum.real.square() + spectrum.imag.square(), lowest_square(magnitude))
        gain = magnitude * square.rsqrt()
        return self.inverse(Spectrum(spectrum.real * gain, spectrum.imag * gain))  # type: ignore[arg-type]


class SparseProduct(nn.Module):
    """A product with a constant matrix `(n_outputs, n_inputs)`, most of which is zero away from the diagonal."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self._ranges = []
        for i, part in enumerate(matrix.split(-(-len(matrix) // _PARTS))):
            columns = part.any(0).nonzero()[:, 0].tolist() or [0]
            self._ranges.append((columns[0], columns[-1] + 1))
            self.register_buffer(f"part{i}", part[:, columns[0] : columns[-1] + 1].clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `(batch, n_inputs, n_frames)`."""
        products = [getattr(self, f"part{i}") @ x[:, low:high] for i, (low, high) in enumerate(self._ranges)]
        return torch.cat(products, dim=1)


class GraphMelSpectrogram(MelSpectrogram):
    """`MelSpectrogram` whose `inverse` multiplies by the parts of its sparse matrices that are not zero."""

    area: Tensor
    covered: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__(config)
        filters = self.filterbank.double()[:, : self.n_covered_bins]
        coverage = filters.sum(0).unsqueeze(1)
        self.register_buffer("covered", (coverage > _TINIEST).double(), persistent=False)
        self.register_buffer("area", filters.sum(1, keepdim=True).clamp_min(_TINIEST), persistent=False)
        fraction = filters / self.area
        self.analyse, self.spread = SparseProduct(filters), SparseProduct(filters.T / coverage.clamp_min(_TINIEST))
        self.interpolate = SparseProduct((fraction / fraction.sum(0).clamp_min(_TINIEST)).T)

    def inverse(self, mel: Tensor, iterations: int = 20) -> Tensor:
        """Estimate the covered bins of a spectrum as `MelSpectrogram.inverse` does, of mels `(batch, n_mels, frames)`.

        In float64, as the mels must be. A power of 1 is written out: to a graph it is as slow as any other.
        """
        power = self.config.power
        energy = self.to_magnitude(mel) if power == 1 else self.to_magnitude(mel) ** power
        estimate: Tensor = self.interpolate((energy / self.area).clamp_min(_TINIEST).log()).exp() * self.covered
        for _ in range(iterations):
            estimate = estimate * self.spread(energy / self.analyse(estimate).clamp_min(_TINIEST))
        return estimate if power == 1 else estimate.pow(1 / power)


class Start(nn.Module):
    """The estimate of the whitened signal that `MelInitialisation` makes of whole mels by integrated phases."""

    def __init__(self, vocoder: Vocoder, stft: MatrixSTFT, iterations: int) -> None:
        super().__init__()
        self.spectrogram, self.stft = GraphMelSpectrogram(vocoder.mel_config), stft
        self.whitening, self._iterations = vocoder.whitening, iterations

    def forward(self, mel: Tensor, noise: Tensor) -> Tensor:
        """Estimate `(batch, 1, time)` of an aligned mel, given noise of the same shape for the random phases."""
        hop_length = self.stft.hop_length
        magnitude = magnitude_from_mel(mel, self.spectrogram)
        random = random_phases(noise, self.stft.n_bins, hop_length)
        integration = PhaseGradient(hop_length, partial(double_phases, doublings=DOUBLINGS))
        phases, _ = integration.push(magnitude, random, last=True)
        spectrum = Spectrum(magnitude * phases.cos(), magnitude * phases.sin())
        audio = self.stft.with_magnitude(spectrum, magnitude).to(mel)  # in float64: its rounding errors would grow
        for _ in range(self._iterations):
            audio = self.stft.with_magnitude(self.stft(audio), magnitude.to(mel))
        audio = limit_energy(audio, magnitude.to(mel), self.stft)
        return self.whitening.whiten(audio.unsqueeze(1), mel)


class GraphMelConsistency(MelConsistency):
    """`MelConsistency` whose mels are those of the frames that are multiplied, so they must be centred on hops.

    Raises:
        ConfigError: If the mels are not.
    """

    def __init__(self, vocoder: Vocoder, stft: MatrixSTFT) -> None:
        super().__init__(vocoder.spectrogram, vocoder.whitening)
        config = vocoder.mel_config
        if (config.centre, config.win_length, config.padding) != ("hop", config.n_fft, "reflect"):
            raise ConfigError(
                f"mel convention {config.name!r} is not that of frames of n_fft samples centred on hops, which a "
                "graph with mel_consistency needs. Export with --set synthesis.mel_consistency=false."
            )
        self.transform = stft

    def forward(self, audio: Tensor, mel: Tensor) -> Tensor:
        """Bring waveforms to a mel as `MelConsistency.forward` does."""
        spectrum = self.transform(audio[:, 0])
        gain = self.gain(mel, self.mel(audio[:, 0]))
        is_long = audio.new_ones(audio.shape[2]).sum() >= self.transform.n_fft
        gain = torch.where(is_long, gain, 1.0)
        made = self.transform.inverse(Spectrum(spectrum.real * gain, spectrum.imag * gain))  # type: ignore[arg-type]
        return made.unsqueeze(1)

    def mel(self, audio: Tensor) -> Tensor:
        """Compute mels `(batch, n_mels, n_frames)` of signals `(batch, time)`, reflected at their ends."""
        margin, end = self.transform.margin, audio.shape[1] - 1
        index = torch.arange(-margin, end + 1 + margin, device=audio.device)
        padded = audio[:, (end - (end - index.abs()).abs()).clamp_min(0)]
        spectrum, config = self.transform.analyse(padded), self.spectrogram.config
        square = (spectrum.real.square() + spectrum.imag.square()) * (config.hann_norm * self.spectrogram.gain) ** 2
        energy = square if config.power == 2 else square.sqrt()
        return compress((energy @ self.spectrogram.filterbank.T).mT, config)


class NetworkGraph(nn.Module):
    """A network with its conditions as inputs; what `PipelineGraph` and `StepGraph` share.

    Args:
        pipeline: The pipeline; it stays as it is.

    Attributes:
        output: Name of what comes out.
    """

    output = "noise"

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        network = copy.deepcopy(pipeline.network).cpu().eval().requires_grad_(False)
        for module in list(network.modules()):
            if isinstance(stft := getattr(module, "stft", None), FramedSTFT):
                module.stft = MatrixSTFT(stft.n_fft, stft.hop_length)
        self.network, self.config = network, pipeline.config
        self.pipeline: Pipeline = type(pipeline)(network, pipeline.config, "fp32")

    def stft_of(self, mel: MelConfig) -> MatrixSTFT:
        """Return the transform of a mel: that of the network where it has the same, so that a file holds it once."""
        lengths = (mel.n_fft, mel.hop_length)
        for module in self.network.modules():
            if isinstance(module, MatrixSTFT) and (module.n_fft, module.hop_length) == lengths:
                return module
        return MatrixSTFT(*lengths)

    def encode(self, mel: Tensor | None) -> Tensor | None:
        """Encode an aligned mel, where there is one."""
        return None if mel is None else self.network.encode(mel)

    def embed(self, label: Tensor | None, speaker: Tensor | None, vector: Tensor | None) -> Tensor | None:
        """Embed global conditions, where there are any."""
        conditions = GlobalConditions(label, speaker, vector)
        return None if all(part is None for part in conditions) else self.network.embed(conditions)


class StepGraph(NetworkGraph):
    """One network call: the noise predicted of a whitened signal at a noise level."""

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        mel: Tensor | None = None,
        label: Tensor | None = None,
        speaker: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            x: Noisy whitened signals `(batch, time)`.
            log_snr: Their noise levels `(batch,)`.
            mel: Mels with one frame per hop `(batch, n_mels, frames)`.
            label: Indices of labels `(batch,)`; their number means none.
            speaker: Likewise.
            vector: `(batch, vector_width)`.

        Returns:
            Predicted noise `(batch, time)`.
        """
        condition, global_condition = self.encode(mel), self.embed(label, speaker, vector)
        output = self.network(x.unsqueeze(1), log_snr, condition, global_condition)
        return prediction_from(output, x.unsqueeze(1), log_snr, self.config.diffusion).noise[:, 0]


class PipelineGraph(NetworkGraph):
    """A whole pipeline: start, reverse process, colouring.

    Args:
        pipeline: The pipeline; it stays as it is.
        settings: The reverse process.

    Attributes:
        draws: The draws of `audiodiff.diffusion.noise.position_noise` that the noise consists of, in this order.

    Raises:
        ConfigError: If the start cannot be a graph.
    """

    output = "audio"

    def __init__(self, pipeline: Pipeline, settings: SynthesisConfig) -> None:
        super().__init__(pipeline)
        self.settings = settings
        self._levels: list[float] = pipeline.noise_levels(settings).tolist()
        self.start: Start | None = None
        self.finish: Finish | None = None
        if isinstance(self.pipeline, Vocoder):
            if settings.start == "griffin-lim":
                raise ConfigError(
                    "a start by Griffin-Lim cannot be exported: its momentum makes rounding errors grow. Use "
                    "--set synthesis.start=phase-gradient, or noise."
                )
            if settings.start == "phase-gradient":
                stft = self.stft_of(self.pipeline.mel_config)
                self.start = Start(self.pipeline, stft, settings.griffin_lim_iterations)
            self.consistency = self.pipeline.mel_consistency
            if settings.mel_consistency:
                self.consistency = GraphMelConsistency(self.pipeline, self.stft_of(self.pipeline.mel_config))
            self.finish = Finish(self.consistency, settings)
        elif isinstance(self.pipeline, Generator):
            self.whitening = self.pipeline.whitening
        self.draws = ([PHASE_DRAW] if self.start else []) + [0]
        self.draws += self._fresh_draws()

    def _fresh_draws(self) -> list[int]:
        """List the draws that the sampler asks for."""
        drawn: list[int] = []
        nothing = torch.zeros(1, 1, 0)

        def noise(step: int) -> Tensor:
            drawn.append(step)
            return nothing

        self._sample(lambda x, log_snr: Prediction(x), nothing, noise)
        return drawn

    def _sample(self, predict: Predictor, x: Tensor, noise: NoiseSource) -> Tensor:
        levels = [torch.tensor(level, dtype=torch.float64) for level in self._levels]  # constants to an exporter
        sampler = SAMPLERS[self.settings.sampler]
        return sampler(predict, x, cast(Tensor, levels), noise, corrector=make_corrector(self.settings))

    def forward(
        self,
        noise: Tensor,
        mel: Tensor | None = None,
        label: Tensor | None = None,
        speaker: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Make waveforms.

        Args:
            noise: Standard normal noise `(len(draws), batch, time)`.
            mel: Mels of the model's convention `(batch, n_mels, frames)`.
            label: Indices of labels `(batch,)`; their number means none.
            speaker: Likewise.
            vector: `(batch, vector_width)`.

        Returns:
            Waveforms `(batch, time)`.
        """
        if mel is not None:
            mel = align_to_hops(mel, cast(MelConfig, self.config.mel))
        bind = partial(self.pipeline.plain_predictor, self.encode(mel))
        predict = self.pipeline.guided(bind, self.embed(label, speaker, vector), self.settings)

        def draw(step: int) -> Tensor:
            return noise[self.draws.index(step)].unsqueeze(1)

        x = draw(0)
        if self.start is not None and mel is not None:
            first = torch.tensor(self._levels[0], dtype=torch.float64)
            x = diffuse(self.start(mel, draw(PHASE_DRAW)), x, first)
        if self.finish is None or mel is None:
            return self.whitening.colour(self._sample(predict, x, draw), None)[:, 0]
        predict = self.pipeline.fitted(predict, self.finish.fit(mel), self.settings)
        return self.finish(self._sample(predict, x, draw), mel)[:, 0]
