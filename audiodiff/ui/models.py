"""The models that the page offers: found by name when it starts, loaded once, when first used."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from audiodiff.checkpoint import DEFAULT_MODEL, bundled_models, find_model, load_config
from audiodiff.config import ModelConfig
from audiodiff.engine.choose import Dtype
from audiodiff.errors import ConfigError
from audiodiff.pipelines import Generator, Vocoder


class Models:
    """The user's models, before the bundled ones.

    Args:
        names: What the user calls them: folders, bundled models or hub:OWNER/NAME.
        device: As in `Vocoder.from_pretrained`.
        dtype: As in `Vocoder.from_pretrained`.

    Raises:
        ModelError: If one cannot be found, or its configuration is damaged.
    """

    def __init__(self, names: Sequence[str] = (), device: str = "auto", dtype: Dtype = "auto") -> None:
        bundled = sorted(bundled_models(), key=lambda name: name != DEFAULT_MODEL)
        self._folders = {name: find_model(name) for name in (*names, *bundled)}
        self._configs = {name: load_config(folder) for name, folder in self._folders.items()}
        self._loaded: dict[str, Vocoder | Generator] = {}
        self._lock = threading.Lock()
        self._how = (device, dtype)

    @property
    def vocoders(self) -> list[str]:
        """Names of those that take a mel."""
        return [name for name, config in self._configs.items() if config.mel is not None]

    @property
    def generators(self) -> list[str]:
        """Names of those that take a label."""
        return [name for name, config in self._configs.items() if config.mel is None and config.labels]

    def config(self, name: str) -> ModelConfig:
        """Return the configuration of a model on offer; of another name, which only a forged request has, an error."""
        if name not in self._configs:
            raise ConfigError(f"there is no model {name!r} here; choose from {', '.join(self._configs)}.")
        return self._configs[name]

    def vocoder(self, name: str) -> Vocoder:
        """Return a vocoder."""
        pipeline = self._load(name)
        if not isinstance(pipeline, Vocoder):
            raise ConfigError(f"{name} is not a vocoder; choose from {', '.join(self.vocoders)}.")
        return pipeline

    def generator(self, name: str) -> Generator:
        """Return a generator."""
        pipeline = self._load(name)
        if not isinstance(pipeline, Generator):
            raise ConfigError(f"{name} is not a generator; choose from {', '.join(self.generators)}.")
        return pipeline

    def _load(self, name: str) -> Vocoder | Generator:
        kind = Generator if self.config(name).mel is None else Vocoder
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = kind.from_pretrained(self._folders[name], *self._how)
            return self._loaded[name]
