"""The typed configuration: one pydantic model per part, read from YAML, saved beside weights as JSON."""

from audiodiff.config.base import Config, change, flattened, parse_config
from audiodiff.config.mel import MelConfig
from audiodiff.config.mel_conventions import MEL_CONVENTIONS, mel_convention
from audiodiff.config.model import (
    DiffusionConfig,
    ModelConfig,
    SearchedLevels,
    SynthesisConfig,
    WhiteningConfig,
    searched_levels,
)
from audiodiff.config.network import HEAD_WIDTH, EmbeddingConfig, NetworkConfig
from audiodiff.config.run import (
    AdapterConfig,
    DataConfig,
    RunConfig,
    TrainingConfig,
    TransformConfig,
    load_run_config,
)

__all__ = [
    "HEAD_WIDTH",
    "MEL_CONVENTIONS",
    "AdapterConfig",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "EmbeddingConfig",
    "MelConfig",
    "ModelConfig",
    "NetworkConfig",
    "RunConfig",
    "SearchedLevels",
    "SynthesisConfig",
    "TrainingConfig",
    "TransformConfig",
    "WhiteningConfig",
    "change",
    "flattened",
    "load_run_config",
    "mel_convention",
    "parse_config",
    "searched_levels",
]
