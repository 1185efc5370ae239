"""Comparison with the network of the PyPI package `vocos`: another network, the same mel, timed in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from audiodiff.audio.resample import import_torchaudio
from audiodiff.benchmark.comparison import OURS, Key
from audiodiff.benchmark.inputs import count_flops, load_vocoder, noise_mel
from audiodiff.benchmark.jobs import Environment, Step, synthesis_changes, warm_up
from audiodiff.benchmark.machine import DTYPES, MemoryMonitor
from audiodiff.benchmark.results import Comparison, Entry, Measurement, Memory
from audiodiff.benchmark.timing import speedup
from audiodiff.config import MelConfig
from audiodiff.engine.choose import Dtype
from audiodiff.errors import needed
from audiodiff.pipelines import Vocoder

VOCOS = "vocos"
_CHANNELS, _HIDDEN, _BLOCKS, _N_FFT = 512, 1536, 8, 1024
"""Size of `charactr/vocos-mel-24khz`: ConvNeXt blocks, then an inverse STFT of windows of 1,024 samples."""


def check_vocos() -> None:
    """Refuse to go on without the package.

    Raises:
        ConfigError: If it is not installed; the message says how to install it.
    """
    _vocos_classes()


def _vocos_classes() -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    with needed("bench", f"--against {VOCOS}"):
        import_torchaudio()  # which it imports, and which may need help
        from vocos.heads import ISTFTHead
        from vocos.models import VocosBackbone
    return VocosBackbone, ISTFTHead


def build_vocos(mel: MelConfig) -> nn.Module:
    """Build Vocos in its published size (Siuzdak 2023) with random weights, for a mel of another convention.

    Args:
        mel: Decides the number of bands and the hop; the window is the published one, or four hops where that is more.

    Returns:
        The network, in evaluation mode: mels `(batch, n_mels, frames)` to audio `(batch, time)`.

    Raises:
        ConfigError: If the package is not installed.
    """
    make_backbone, make_head = _vocos_classes()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        backbone = make_backbone(mel.n_mels, _CHANNELS, _HIDDEN, _BLOCKS)
        head = make_head(_CHANNELS, max(_N_FFT, 4 * mel.hop_length), mel.hop_length, padding="center")
    # Only matrix products and convolutions are in bfloat16: there is no Fourier transform in it.
    head.get_submodule("out").register_forward_hook(lambda _module, _inputs, output: output.float())
    return nn.Sequential(backbone, head).eval()


def vocos_task(network: nn.Module, mel: Tensor, dtype: Dtype) -> Callable[[], Tensor]:
    """Return a function that makes audio `(batch, time)` of a mel, in the precision of `dtype`."""

    @torch.inference_mode()
    def task() -> Tensor:
        with torch.autocast(mel.device.type, DTYPES["bf16"], enabled=dtype == "bf16"):
            audio: Tensor = network(mel)
        return audio

    return task


@dataclass(frozen=True)
class VocosComparison:
    """Synthesis by one of our models and by Vocos, from the same mel, in the same precisions.

    Attributes:
        environment: Of the run.
        model: Ours.
        dtypes: Precisions of both.
        batch: Clips made together.
        seconds: Length of a clip.
        steps: Of ours; None is the model's own number.
    """

    environment: Environment
    model: str
    dtypes: tuple[Dtype, ...]
    batch: int
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        return f"synthesis, {self.model} against {VOCOS}, batch {self.batch} x {self.seconds:g} s"

    @property
    def keys(self) -> tuple[Key, ...]:
        """All entries: in each precision ours, then Vocos."""
        return tuple((name, dtype) for dtype in self.dtypes for name in (OURS, VOCOS))

    def run(self) -> Comparison:
        """Time all of them in turns in this process."""
        vocoder, mel, steps = self._prepared()
        vocos = build_vocos(vocoder.mel_config).to(mel.device)
        runs = {str(key): self._task(vocoder, vocos, key, mel, steps) for key in self.keys}
        times, probe = self.environment.time(runs, mel.device, self.dtypes)
        flops = count_flops(vocoder.network, vocoder.config, batch=self.batch, n_frames=mel.shape[-1])
        return Comparison(
            task="synthesis",
            baseline=VOCOS,
            model=self.model,
            batch=self.batch,
            n_samples=mel.shape[-1] * vocoder.mel_config.hop_length,
            sample_rate=vocoder.sample_rate,
            steps=steps,
            baseline_steps_timed=steps,
            flops=flops.of_loop(steps),
            relative_difference=None,
            entries=self._entries(times, vocos_flops(vocos, mel)),
            rooflines=probe.rooflines(),
        )

    def memory(self, key: Key) -> Memory:
        """Measure the memory of one entry in this process."""
        vocoder, mel, steps = self._prepared()
        monitor = MemoryMonitor(mel.device)
        vocos = build_vocos(vocoder.mel_config).to(mel.device) if key[0] == VOCOS else None
        self._task(vocoder, vocos, key, mel, steps)()
        return monitor.memory()

    def _prepared(self) -> tuple[Vocoder, Tensor, int]:
        """Set up this process; return our vocoder in fp32, the mel that all entries are given, and our steps."""
        device = self.environment.set_up()
        vocoder = load_vocoder(self.model, str(device), "fp32")
        steps = vocoder.settings(synthesis_changes(self.steps)).steps
        return vocoder, noise_mel(vocoder, self.batch, self.seconds), steps

    def _task(self, vocoder: Vocoder, vocos: nn.Module | None, key: Key, mel: Tensor, steps: int) -> Step:
        """Return what an entry does, warmed up."""
        name, dtype = key
        if name == OURS or vocos is None:
            ours = vocoder.with_dtype(dtype)
            warm_up(ours, mel, steps)
            return lambda: ours(mel, steps=steps)
        task = vocos_task(vocos, mel, dtype)
        task()
        return task

    def _entries(self, times: dict[str, list[float]], baseline_flops: int) -> tuple[Entry, ...]:
        entries = []
        for name, dtype in self.keys:
            taken, baseline = times[str((name, dtype))], times[str((VOCOS, dtype))]
            entry = Entry(name=name, dtype=dtype, seconds=Measurement.from_values(taken))
            changes = {"flops": baseline_flops} if name == VOCOS else {"speedup": speedup(taken, baseline)}
            entries.append(entry.model_copy(update=changes))
        return tuple(entries)


def vocos_flops(vocos: nn.Module, mel: Tensor) -> int:
    """Count the matrix products and convolutions of Vocos, as `inputs.count_flops` counts ours."""
    task = vocos_task(vocos, mel, "fp32")
    with FlopCounterMode(display=False) as counter:
        task()
    return int(counter.get_total_flops())
