"""Waveform diffusion: vocoders and generators of the DiffWave family.

The public names are loaded when they are first asked for (PEP 562), so that importing the package costs milliseconds
and does not import torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Generator", "MelSpectrogram", "Vocoder", "__version__", "load_audio", "save_audio"]

if TYPE_CHECKING:
    from audiodiff.audio.io import load_audio, save_audio
    from audiodiff.audio.mel import MelSpectrogram
    from audiodiff.pipelines import Generator, Vocoder
else:
    _HOMES = {
        "Generator": "audiodiff.pipelines",
        "MelSpectrogram": "audiodiff.audio.mel",
        "Vocoder": "audiodiff.pipelines",
        "load_audio": "audiodiff.audio.io",
        "save_audio": "audiodiff.audio.io",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Threads that sleep while they wait: spinning, OpenMP's default, costs several times the CPU time on a busy
        # machine. It has an effect if torch has not been imported yet.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
