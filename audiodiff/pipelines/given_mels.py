"""Mels as a vocoder is given them: checked, and converted where they follow another convention than the model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.nn import functional

from audiodiff.audio.mel import check_mel
from audiodiff.audio.mel_convention_files import named_convention
from audiodiff.audio.mel_conversion import mel_converter
from audiodiff.audio.transforms import ArrayLike
from audiodiff.config import MelConfig
from audiodiff.errors import ConfigError, MelError


class GivenMels:
    """What a vocoder takes.

    Frames that are centred elsewhere than the model's stay where they are, and the audio is shifted in their place
    (`in_time`): that loses nothing, whereas interpolated frames cost 0.15 of PESQ.

    Args:
        config: The convention of the model.
        convention: What the mels follow, a value or as of `named_convention`; None is that of the model.
        resample: Whether another sample rate or hop is converted too.

    Attributes:
        config: What the mels follow.
        delay: Samples by which the audio is late, if below 0 early, before `in_time`.

    Raises:
        MelError: If they cannot be converted.
    """

    def __init__(self, config: MelConfig, convention: str | MelConfig | None = None, *, resample: bool = False) -> None:
        if isinstance(convention, str):
            convention = named_convention(convention)
        self._model, self.config = config, convention or config
        converter = mel_converter(convention, config, resample=resample, keep_centres=True) if convention else None
        self._converter, self.delay = converter, converter.delay if converter else 0

    def whole(self, mel: ArrayLike) -> Tensor:
        """Return a mel `(..., n_mels, frames)` of the model's convention.

        Raises:
            MelError: If the mel cannot be of the convention it should follow.
        """
        checked = check_mel(mel, self.config)
        return self._converter(checked) if self._converter else checked

    def pieces(self, mels: Iterable[ArrayLike]) -> Iterator[Tensor]:
        """Return consecutive pieces `(1, n_mels, frames)` of the model's convention.

        Raises:
            MelError: As of `whole`.
            ConfigError: As of `look_ahead`.
        """
        _ = self.look_ahead
        checked = (self._piece(mel) for mel in mels)
        return checked if self._converter is None else self._converter.stream(checked)

    def n_samples(self, n_frames: int) -> int:
        """Return how long the audio of a mel of so many frames is."""
        n_hops = self._converter.n_frames(n_frames) if self._converter else n_frames
        n_hops -= self._model.frames_beyond_hops
        return max(0, n_hops * self._model.hop_length - self.delay)

    def in_time(self, audio: Iterable[Tensor]) -> Iterator[Tensor]:
        """Shift audio, in consecutive pieces `(..., time)`, to where it belongs: drop its beginning, or add silence."""
        delay = self.delay
        for piece in audio:
            kept = functional.pad(piece, (max(0, -delay), 0))[..., max(0, delay) :]
            delay = max(0, delay - piece.shape[-1])
            if kept.shape[-1]:
                yield kept

    def _piece(self, given: ArrayLike) -> Tensor:
        mel = check_mel(given, self.config)
        if mel.ndim != 2:
            raise MelError(f"mel has shape {tuple(mel.shape)}; a stream takes (n_mels, frames), one waveform.")
        return mel.unsqueeze(0)

    @property
    def look_ahead(self) -> int:
        """Frames that a stream waits for before it can convert one.

        Raises:
            ConfigError: If frames are interpolated to another rate, which streams do not.
        """
        if self._converter is None:
            return 0
        if not self._converter.keeps_hops:
            raise ConfigError(
                f"mels of convention {self.config.name!r} have another sample rate or hop than the model, so they are "
                "converted as a whole only. Give the whole mel in one call, or use a model of that rate."
            )
        return self._converter.look_ahead
