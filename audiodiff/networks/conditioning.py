"""Conditioning: a mel that enters every layer, and global conditions, whose embeddings join that of the noise level.

A mel is local conditioning; class, speaker and vector of a whole clip are global (van den Oord et al. 2016, "WaveNet").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.choices import shown
from audiodiff.config import ModelConfig, NetworkConfig, SynthesisConfig
from audiodiff.errors import ConfigError


class GlobalConditions(NamedTuple):
    """What conditions whole clips, in contrast to the mel; None where no clip has it.

    Attributes:
        label: Class indices `(batch,)`; the number of classes means no class.
        speaker: Speaker indices `(batch,)`; the number of speakers means no speaker.
        vector: `(batch, vector_width)`, float32; a row of NaN means no vector.
    """

    label: Tensor | None = None
    speaker: Tensor | None = None
    vector: Tensor | None = None


class MelNormalisation(nn.Module):
    """Bring every mel bin to zero mean and unit variance, with statistics measured on the training data.

    Args:
        n_mels: Number of bins.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("deviation", torch.ones(n_mels))

    def forward(self, mel: Tensor) -> Tensor:
        """Normalise mels `(batch, n_mels, frames)` into features `(batch, frames, n_mels)`."""
        return (mel.transpose(1, 2) - self.mean) / self.deviation


class LabelEmbedding(nn.Module):
    """One learned vector per class, and one more for "no class" (classifier-free guidance needs it).

    Args:
        n_labels: Number of classes.
        width: Width of a vector.
    """

    def __init__(self, n_labels: int, width: int) -> None:
        super().__init__()
        self.n_labels = n_labels
        self.table = nn.Embedding(n_labels + 1, width)

    def forward(self, label: Tensor | None) -> Tensor:
        """Map class indices `(batch,)` to vectors `(batch, width)`; None means no class: `(1, width)`."""
        if label is None:
            return self.table.weight[self.n_labels :]
        vectors: Tensor = self.table(label)
        return vectors


class VectorEmbedding(nn.Module):
    """A linear map of any vector, with statistics measured on the training data, and a learned embedding of "none".

    Args:
        n_features: Length of the vector.
        width: Width of its embedding.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.project = nn.Linear(n_features, width)
        self.none = nn.Parameter(torch.randn(width) * 3**-0.5)  # of the size of what the projection starts with

    def forward(self, vector: Tensor | None) -> Tensor:
        """Map vectors `(batch, n_features)` to `(batch, width)`, or None, as a row of NaN, to that of "none"."""
        if vector is None:
            return self.none.unsqueeze(0)
        missing = vector.isnan().any(1, keepdim=True)
        projected = self.project((torch.where(missing, self.mean, vector) - self.mean) / self.deviation)
        return torch.where(missing, self.none.to(projected.dtype), projected)


class FrameConditioner(nn.Linear):
    """A mel frame, projected for all layers at once and repeated over the positions of its hop.

    Nothing of it depends on the noise level, so it is projected once for all steps.

    Args:
        n_mels: Number of bins.
        widths: Channels of the condition of each layer.

    Attributes:
        context_frames: How many frames to either side an encoded position depends on.
        positions_per_frame: Encoded positions per frame.
    """

    context_frames = 0
    positions_per_frame = 1

    def __init__(self, n_mels: int, widths: Sequence[int]) -> None:
        super().__init__(n_mels, sum(widths), bias=False)
        self.widths = list(widths)

    def encode(self, features: Tensor) -> Tensor:
        """Project features `(batch, frames, n_mels)` to `(batch, frames, sum of widths)`."""
        projected: Tensor = self(features)
        return projected

    def split(self, encoded: Tensor) -> Sequence[Tensor]:
        """Split what `encode` returned into the parts of the layers, all at once: gradients join without sums."""
        parts: tuple[Tensor, ...] = encoded.split(self.widths, dim=2)
        return parts

    def for_layer(self, part: Tensor, index: int, n_positions: int) -> Tensor:
        """Return the condition of one layer.

        Args:
            part: Its part of what `split` returned.
            index: Of the layer.
            n_positions: Positions of the signal, a multiple of the frames.

        Returns:
            `(batch, n_positions, width)`.
        """
        if part.shape[1] == n_positions:
            return part
        return part.repeat_interleave(n_positions // part.shape[1], dim=1)


LEAK = 0.4
"""Slope of the leaky ReLU for negative values, in lmnt-com/diffwave and in philsyn's networks alike."""


def _upsampling_stage(factor: int) -> nn.ConvTranspose2d:
    stage = nn.ConvTranspose2d(1, 1, (3, 2 * factor), stride=(1, factor), padding=(1, factor // 2))
    nn.init.normal_(stage.weight, std=math.sqrt(2 / (1 + LEAK**2) / 6))  # an output sums 6 inputs (He et al. 2015)
    return stage


class TransposedUpsampler(nn.Module):
    """Transposed convolutions over mel bins and time, each followed by a leaky ReLU (Kong et al. 2021, section 3.3).

    A kernel spans 3 bins and two strides of time, so that an output depends on its frame and on one neighbour.

    Args:
        factors: Strides in time, each even; their product is the number of positions per frame.
    """

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_upsampling_stage(factor) for factor in factors)

    def forward(self, features: Tensor) -> Tensor:
        """Map `(batch, frames, n_mels)` to `(batch, frames * product of factors, n_mels)`."""
        plane = features.transpose(1, 2).unsqueeze(1)
        for stage in self.stages:
            plane = functional.leaky_relu(stage(plane), LEAK)
        return plane.squeeze(1).transpose(1, 2).contiguous()


class UpsampledConditioner(nn.Module):
    """Mel frames, upsampled to the positions of the signal by learned filters, then projected by each layer for itself.

    What is encoded is narrow, and only one layer's projection of it exists at a time, to save memory.

    Args:
        n_mels: Number of bins.
        widths: Channels of the condition of each layer.
        factors: Strides of the upsampler; their product is the number of positions per frame.
        per_layer: Whether every layer has an upsampler of its own (philsyn/DiffWave-Vocoder), or all share one
            (lmnt-com/diffwave).

    Attributes:
        upsamplers: One, or one for each layer.
        projections: One linear layer for each layer, with bias.
        context_frames: How many frames to either side an encoded position depends on.
        positions_per_frame: Encoded positions per frame.
    """

    context_frames = 1

    def __init__(self, n_mels: int, widths: Sequence[int], *, factors: Sequence[int], per_layer: bool = False) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.positions_per_frame = math.prod(factors)
        self.upsamplers = nn.ModuleList(TransposedUpsampler(factors) for _ in range(len(widths) if per_layer else 1))
        self.projections = nn.ModuleList(nn.Linear(n_mels, width) for width in widths)

    def encode(self, features: Tensor) -> Tensor:
        """Upsample features.

        Args:
            features: `(batch, frames, n_mels)`.

        Returns:
            `(batch, frames * positions_per_frame, n_mels)`; with an upsampler per layer, theirs side by side:
            `(batch, frames * positions_per_frame, layers * n_mels)`.
        """
        return torch.cat([upsample(features) for upsample in self.upsamplers], dim=2)

    def split(self, encoded: Tensor) -> Sequence[Tensor]:
        """Return what each layer projects `(batch, positions, n_mels)` of what `encode` returned."""
        if len(self.upsamplers) == 1:
            return [encoded] * len(self.projections)
        parts: tuple[Tensor, ...] = encoded.split(self.n_mels, dim=2)
        return parts

    def for_layer(self, part: Tensor, index: int, n_positions: int) -> Tensor:
        """Return the condition of one layer; arguments and result as in `FrameConditioner.for_layer`.

        Raises:
            ValueError: If there are not as many encoded positions as `n_positions`.
        """
        if part.shape[1] != n_positions:
            raise ValueError(f"the condition has {part.shape[1]} positions, the signal {n_positions}")
        projected: Tensor = self.projections[index](part)
        return projected


Conditioner = FrameConditioner | UpsampledConditioner


def make_conditioner(network: NetworkConfig, n_mels: int, widths: Sequence[int]) -> Conditioner | None:
    """Return what brings a mel of so many bins to layers of these widths; None for no bins."""
    if not n_mels:
        return None
    if network.upsampling == "repeat":
        return FrameConditioner(n_mels, widths)
    return UpsampledConditioner(
        n_mels, widths, factors=network.upsampling_factors, per_layer=network.upsampling == "transposed-per-layer"
    )


def make_conditions(
    config: ModelConfig, device: torch.device, *, label: str | None, speaker: str | None, vector: ArrayLike | None
) -> GlobalConditions | None:
    """Check what is said of a clip, and turn names into indices.

    Args:
        config: The model.
        device: Where the network is.
        label: One of the model's labels, or None.
        speaker: One of the model's speakers, or None.
        vector: `(vector_width,)`, or None.

    Returns:
        GlobalConditions of one clip; None if nothing is said.

    Raises:
        ConfigError: If a name is unknown, a vector does not fit, or something is missing that the model has never been
            trained without.
    """
    conditions = GlobalConditions(
        _index("label", label, config.labels, device),
        _index("speaker", speaker, config.speakers, device),
        _row(vector, config.vector_width, device),
    )
    lists = {"label": ", ".join(config.labels), "speaker": ", ".join(config.speakers), "vector": ""}
    if config.vector_width:
        lists["vector"] = f"{config.vector_width} numbers"
    for name, choices in lists.items():
        if choices and getattr(conditions, name) is None and not config.condition_dropout:
            raise ConfigError(
                f"this model needs a {name}; choose from {choices}. Only one trained with training.condition_dropout "
                "can do without."
            )
    return conditions if any(part is not None for part in conditions) else None


def find_name(what: str, name: str, names: Sequence[str]) -> str:
    """Return the label or speaker of a model that someone means: upper and lower case and spaces around do not count.

    Args:
        what: What it is the name of, for the message.
        name: As it was given.
        names: Those of the model.

    Raises:
        ConfigError: If the model has none of that name; the message names the closest.
    """
    word = str(name).strip().casefold()
    alike = {known.casefold(): known for known in names}
    found = name if name in names else alike.get(word)
    if found is not None:
        return found
    known = f"the {what}s of this model are {', '.join(names)}" if names else f"this model has no {what}s"
    closest = "".join(f"did you mean {alike[key]!r}? T{known[1:]}" for key in get_close_matches(word, alike, n=1))
    raise ConfigError(f"unknown {what} {shown(name)}; {closest or known}.")


def _index(what: str, name: str | None, names: Sequence[str], device: torch.device) -> Tensor | None:
    return None if name is None else torch.tensor([names.index(find_name(what, name, names))], device=device)


def _row(vector: ArrayLike | None, width: int, device: torch.device) -> Tensor | None:
    if vector is None:
        return None
    vector = as_tensor(vector, "the vector", ConfigError)
    if vector.numel() != width or vector.dim() > 2 or not bool(vector.isfinite().all()):
        takes = f"takes {width} finite numbers" if width else "takes no vector (vector_width is 0)"
        raise ConfigError(f"the vector has shape {tuple(vector.shape)}; this model {takes}.")
    return vector.to(device, torch.float32).reshape(1, width)


def check_guidance(config: ModelConfig, settings: SynthesisConfig) -> None:
    """Refuse guidance of a model that does not know what no condition is.

    Raises:
        ConfigError: If it was trained without condition dropout.
    """
    if settings.guidance != 1 and not (config.is_conditional and config.condition_dropout):
        reason = "was trained without training.condition_dropout, so it does not know what no condition is"
        if not config.is_conditional:
            reason = "has no label, speaker or vector to be guided by; a mel guides by itself"
        raise ConfigError(f"guidance is {settings.guidance:g}, but this model {reason}. Use guidance 1.")
