"""What the page does with recordings and settings: sounds and pictures as files. It knows nothing of browsers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from audiodiff.audio.degradation import Clipping, Degradation, Gaps, LowPass, Noise
from audiodiff.audio.io import audio_info, load_audio, save_audio
from audiodiff.audio.plots import display_mel
from audiodiff.choices import GUIDANCE, SEED, Number
from audiodiff.config import MelConfig
from audiodiff.diffusion.noise import position_noise
from audiodiff.errors import AudioError, ConfigError
from audiodiff.pipelines import SynthesisChanges
from audiodiff.pipelines.files import load_recording, name_channels, remove_dc_offset
from audiodiff.pipelines.generate_files import safe_name
from audiodiff.pipelines.repair import repair
from audiodiff.pipelines.repair_files import clipping_at_peak
from audiodiff.pipelines.reverse_states import reverse_states
from audiodiff.ui.models import Models
from audiodiff.ui.pictures import Scale, draw_signal, draw_state

Start = Literal["estimate", "noise"]
Damage = Literal["gap", "clipping", "noise", "bandwidth"]

MOST_STEPS = 50
_STEPS = Number(int, low=1, high=MOST_STEPS, unit="steps")
EXAMPLE = "sense-and-sensibility-0870.flac"
_RESULT = "#a8327d"
_MOST_PICTURES = 12
"""Of a reverse process, so that drawing does not take longer than computing."""
_MOST_SAMPLES_PER_SECOND = 2 * 192_000
"""Of all channels together; a file may be small and still unpack to gigabytes."""
_REMEMBERED = 512
"""Generated clips, for a pad that is clicked again, also by another user."""
_EXAMPLE_CLIPPING = 0.3
"""Fraction of the peak at which the example is clipped."""


@dataclass(frozen=True)
class Pair:
    """What there is to hear and see so far; None is what is not there yet.

    Attributes:
        note: What is going on, or what was done.
        before: The recording as the model takes it, a .wav file.
        before_picture: Its waveform and spectrogram, a .png file.
        states: Small pictures of the reverse process, each with a caption.
        after: The result.
        after_picture: Its picture.
    """

    note: str
    before: Path | None = None
    before_picture: Path | None = None
    states: tuple[tuple[Path, str], ...] = ()
    after: Path | None = None
    after_picture: Path | None = None


@dataclass(frozen=True)
class DamageSettings:
    """What happened to a recording.

    Attributes:
        kind: Which damage; of the rest only what belongs to it is used.
        first: Where the gap begins, in seconds.
        end: Where it ends.
        snr_db: Mean power of the recording over that of the noise.
        cutoff: Above this frequency everything is missing, in Hz.
    """

    kind: Damage
    first: float = 1.2
    end: float = 1.3
    snr_db: float = 15.0
    cutoff: float = 3000.0

    def degradation(self, audio: Tensor, sample_rate: int, *, level: float | None = None) -> Degradation:
        """Return the damage to a recording `(channels, time)`, clipped at a level, or where its peak is."""
        if self.kind == "gap":
            return Gaps(((self.first, self.end),), sample_rate)
        if self.kind == "clipping":
            return clipping_at_peak(audio) if level is None else Clipping(level)
        if self.kind == "noise":
            return Noise(self.snr_db)
        if self.kind == "bandwidth":
            return LowPass(self.cutoff, sample_rate)
        raise ConfigError(f"there is no damage {self.kind!r}; choose from {', '.join(get_args(Damage))}.")


class Studio:
    """Vocodes, generates and repairs. One thing at a time, which is up to the caller.

    Args:
        models: See `Models`.
        folder: Where files go; whoever lends it removes it.
        max_seconds: Of a recording.
    """

    def __init__(self, models: Models, folder: Path, max_seconds: float = 60.0) -> None:
        self.models = models
        self._folder, self._max_seconds = folder, max_seconds
        self._clip = lru_cache(_REMEMBERED)(self._make_clip)

    def example(self) -> Path:
        """Return a recording that comes with the package."""
        audio, rate = load_audio(_example()), audio_info(_example()).sample_rate
        return self._saved("example.wav", audio, rate)

    def damaged_example(self, model: str, damage: DamageSettings) -> Path:
        """Return that recording, damaged, at the rate of a model."""
        rate = self.models.config(model).sample_rate
        audio = load_audio(_example(), rate)
        degradation = damage.degradation(audio, rate, level=_EXAMPLE_CLIPPING * float(audio.abs().max()))
        noise = position_noise([0], 0, n_samples=audio.shape[-1])[0]
        return self._saved(f"example-{damage.kind}.wav", degradation.degrade(audio, noise.to(audio)), rate)

    def vocode(
        self,
        recording: str | None,
        model: str,
        start: Start,
        steps: int,
        seed: int,
        *,
        report: Callable[[Pair], object] = lambda pair: None,
    ) -> Pair:
        """Vocode a recording.

        Args:
            recording: An audio file.
            model: A vocoder.
            start: What the reverse process begins with: an estimate of the waveform from the mel, or noise alone.
            steps: Of the reverse process.
            seed: Of the noise.
            report: Called with what there is so far, a picture for every step; what it raises ends the process.

        Raises:
            AudiodiffError: If the recording or a setting cannot be used.
        """
        changes = SynthesisChanges(steps=_STEPS.check("steps", steps))
        if start == "noise":
            changes["start"] = "noise"
        seed, path = SEED.check("seed", seed), self._checked(recording)
        vocoder = self.models.vocoder(model)
        audio = self._loaded(path, vocoder.sample_rate)
        pair, scale = self._before(path, audio, vocoder.mel_config)
        report(pair)
        n_calls, number = vocoder.network_calls(vocoder.settings(changes)), 0
        shown = {round(i * (n_calls - 1) / (_MOST_PICTURES - 1)) for i in range(_MOST_PICTURES)}

        def draw(log_snr: float, signal: Tensor) -> None:
            nonlocal pair, number
            if number in shown:
                picture = self._file("state.png")
                draw_state(picture, signal, vocoder.mel_config, scale)
                caption = f"{f'after step {number}' if number else 'start'}, log-SNR {log_snr:.1f}"
                pair = replace(pair, states=(*pair.states, (picture, caption)))
                report(replace(pair, note=f"Step {number + 1} of {n_calls} …"))
            number += 1

        began = time.perf_counter()
        made = reverse_states(vocoder, audio, seed, draw, **changes)[:, : audio.shape[-1]].cpu()
        elapsed = time.perf_counter() - began
        picture = self._file("state.png")
        draw_state(picture, made, vocoder.mel_config, scale)
        pair = replace(pair, states=(*pair.states, (picture, f"after step {n_calls}: the result")))
        calls = "one step" if n_calls == 1 else f"{n_calls} steps"
        return self._after(pair, path, made, vocoder.mel_config, model, f"{calls} in {elapsed:.1f} s", scale)

    def generate(self, model: str, label: str, seed: int, guidance: float) -> Path:
        """Return a clip of a label; one that was made before is remembered.

        Raises:
            AudiodiffError: If a setting cannot be used.
        """
        clip = self._clip(model, label, SEED.check("seed", seed), GUIDANCE.check("guidance", guidance))
        return self._saved(f"{safe_name(label)}_{seed}.wav", clip, self.models.config(model).sample_rate)

    def _make_clip(self, model: str, label: str, seed: int, guidance: float) -> Tensor:
        return self.models.generator(model).generate(label, seed=seed, guidance=guidance, level=-1)[0].cpu()

    def repair(
        self,
        recording: str | None,
        model: str,
        damage: DamageSettings,
        seed: int,
        *,
        report: Callable[[Pair], object] = lambda pair: None,
    ) -> Pair:
        """Repair a recording; arguments as in `vocode`.

        Raises:
            AudiodiffError: If the recording or a setting cannot be used, or the damage cannot be in it.
        """
        seed, path = SEED.check("seed", seed), self._checked(recording)
        vocoder = self.models.vocoder(model)
        audio = self._loaded(path, vocoder.sample_rate).to(vocoder.device)
        mel_config = display_mel(vocoder.sample_rate)
        pair, scale = self._before(path, audio, mel_config)
        report(pair)
        began = time.perf_counter()
        made = repair(vocoder, audio, damage.degradation(audio, vocoder.sample_rate), seed=seed).cpu()
        did = f"{damage.kind} repaired in {time.perf_counter() - began:.1f} s"
        return self._after(pair, path, made, mel_config, model, did, scale)

    def _checked(self, recording: str | None) -> Path:
        """Refuse a recording that is missing or too long, before it is decoded."""
        if not recording:
            raise AudioError("There is no recording yet. Drop a file, record something, or use the example.")
        path = Path(recording)
        info = audio_info(path)
        if info.seconds > self._max_seconds:
            raise AudioError(
                f"{path.name} has {info.seconds:.1f} s; at most {self._max_seconds:g} s can be used here. Shorten it."
            )
        if info.n_samples * info.channels > self._max_seconds * _MOST_SAMPLES_PER_SECOND:
            raise AudioError(f"{path.name} has {info.channels} channels of {info.sample_rate} Hz, which is too much.")
        return path

    def _loaded(self, path: Path, sample_rate: int) -> Tensor:
        return remove_dc_offset(load_recording(path, sample_rate, resample=True), Path(path.name))

    def _before(self, path: Path, audio: Tensor, mel_config: MelConfig) -> tuple[Pair, Scale]:
        """Return the recording to hear and see, and the scale of its picture."""
        picture = self._file("before.png")
        scale = draw_signal(picture, audio, mel_config)
        before = self._saved(f"{_stem(path)}.wav", audio, mel_config.sample_rate)
        return Pair("Computing …", before, picture), scale

    def _after(
        self, pair: Pair, path: Path, made: Tensor, mel_config: MelConfig, model: str, did: str, scale: Scale
    ) -> Pair:
        """Return the whole: with the result to hear and see, and a line about it."""
        picture, info = self._file("after.png"), audio_info(path)
        draw_signal(picture, made, mel_config, colour=_RESULT, scale=scale)
        after = self._saved(f"{_stem(path)}.{safe_name(Path(model).name)}.wav", made, mel_config.sample_rate)
        rates = f"{info.sample_rate:,} Hz" + (
            f" → {mel_config.sample_rate:,} Hz" if info.sample_rate != mel_config.sample_rate else ""
        )
        heard = f"{info.seconds:.1f} s of audio ({rates}, {name_channels(info.channels)})"
        note = f"**{Path(model).name}**: {did}, for {heard}."
        return replace(pair, note=note, after=after, after_picture=picture)

    def _file(self, name: str) -> Path:
        """Return a name for a file, in a new folder whose name nobody guesses."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir()
        return folder / name

    def _saved(self, name: str, audio: Tensor, sample_rate: int) -> Path:
        path = self._file(name)
        save_audio(path, audio, sample_rate)
        return path


def _example() -> Path:
    return Path(str(files("audiodiff"))) / "assets" / "clips" / EXAMPLE


def _stem(path: Path) -> str:
    return safe_name(path.stem)[:60] or "recording"
