"""Where model, schedule, sampler and audio meet: `Vocoder` (from a mel) and `Generator` (from a label or nothing)."""

from audiodiff.pipelines.generator import Generator
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder

__all__ = ["Generator", "SynthesisChanges", "Vocoder"]
