"""What the networks share: noise level and conditions, and the state of torch that they are built and run in."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from audiodiff.config import ModelConfig
from audiodiff.networks.conditioning import (
    Conditioner,
    GlobalConditions,
    LabelEmbedding,
    MelNormalisation,
    VectorEmbedding,
)
from audiodiff.networks.embeddings import NoiseLevelEmbedding

_Function = TypeVar("_Function", bound=Callable[..., Any])
Gradients = Literal["inference", "off", "on", "as they are"]


def isolated(gradients: Gradients) -> Callable[[_Function], _Function]:
    """Return a decorator that has a function compute the same whatever the caller has set in torch.

    Autocast is off, new tensors are float32 and on the CPU. It takes up one frame of the stack, and of a generator it
    lasts while a next value is computed. The default dtype belongs to the whole process: other threads see it too.

    Args:
        gradients: Whether there are any: "inference" and "off" are `torch.inference_mode` and `torch.no_grad`, "on"
            also within these.
    """

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with _isolation(gradients):
                return function(*args, **options)

        @functools.wraps(function)
        def generate(*args: Any, **options: Any) -> Iterator[Any]:
            values = function(*args, **options)
            try:
                while True:
                    with _isolation(gradients):
                        try:
                            value = next(values)
                        except StopIteration:
                            return
                    yield value
            finally:
                values.close()

        return generate if inspect.isgeneratorfunction(function) else call  # type: ignore[return-value]

    return decorate


@contextmanager
def _isolation(gradients: Gradients) -> Iterator[None]:
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if gradients != "as they are":
            stack.enter_context(torch.inference_mode(gradients == "inference"))
            stack.enter_context(torch.set_grad_enabled(gradients == "on"))
        stack.enter_context(_FLOAT32)
        yield


class _Float32:
    """Makes float32 the default dtype as long as anyone is within; then it is again what it was before the first."""

    def __init__(self) -> None:
        self._lock, self._n_within, self._before = Lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._n_within == 0:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._n_within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_within -= 1
            if self._n_within == 0:
                torch.set_default_dtype(self._before)


_FLOAT32 = _Float32()


class Stack(nn.Module):
    """The layers between input and output projection, and the conditioner that brings a mel to them.

    Attributes:
        layers: What gets a condition, in the order of execution.
        conditioner: None in a network without mel.
    """

    layers: nn.ModuleList
    conditioner: Conditioner | None

    def split_condition(self, condition: Tensor | None) -> Sequence[Tensor | None]:
        """Return each layer's part of what `conditioner.encode` returned, None without a condition.

        Raises:
            TypeError: If there is a condition, but no conditioner.
        """
        if condition is None:
            return [None] * len(self.layers)
        if self.conditioner is None:
            raise TypeError("this network was built without a mel condition")
        return self.conditioner.split(condition)

    def layer_condition(self, part: Tensor | None, index: int, n_positions: int) -> Tensor | None:
        """Return the condition of a layer, given its part; see `FrameConditioner.for_layer`."""
        return (
            None if part is None or self.conditioner is None else self.conditioner.for_layer(part, index, n_positions)
        )


class ConditionedNetwork(nn.Module):
    """What conditions every noise predictor: noise level, global conditions, and mel.

    Args:
        config: The model; its network, diffusion range, mel, labels, speakers and vector_width are used.

    Attributes:
        label: The embedding of classes, or None.
        speaker: The embedding of speakers, or None.
        vector: The embedding of vectors, or None.
        variance: The projection to a learned variance, None where it is fixed; it starts at zero, the geometric mean of
            the bounds (`audiodiff.diffusion.variance`).
    """

    stack: Stack
    """What lies between input and output projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.network.embedding.width
        self.level = NoiseLevelEmbedding(config.network.embedding, config.diffusion)
        self.label = LabelEmbedding(len(config.labels), width) if config.labels else None
        self.speaker = LabelEmbedding(len(config.speakers), width) if config.speakers else None
        self.vector = VectorEmbedding(config.vector_width, width) if config.vector_width else None
        self.normalise_mel = MelNormalisation(config.mel.n_mels) if config.mel else None
        self.variance: nn.Linear | None = None

    @property
    def context_frames(self) -> int:
        """Mel frames on either side that the encoded condition of a frame depends on."""
        return self.stack.conditioner.context_frames if self.stack.conditioner else 0

    @property
    def trunk(self) -> nn.ModuleList:
        """The stack without its conditioner, which holds most of the weights; a fine-tuning may freeze it."""
        return nn.ModuleList(part for name, part in self.stack.named_children() if name != "conditioner")

    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel condition `(batch, n_mels, frames)` once for all denoising steps."""
        if self.normalise_mel is None or self.stack.conditioner is None:
            raise TypeError("this network was built without a mel condition")
        return self.stack.conditioner.encode(self.normalise_mel(mel))

    def embed(self, global_conditions: GlobalConditions | None = None) -> Tensor | None:
        """Embed global conditions, once for all denoising steps.

        Args:
            global_conditions: What is missing counts as "none", of which there is a learned embedding too.

        Returns:
            `(batch, width)`, or `(1, width)` without any; None for a network without global conditions.

        Raises:
            TypeError: If the network was built without one of them.
        """
        total: Tensor | None = None
        for name, value in (global_conditions or GlobalConditions())._asdict().items():
            embedding = getattr(self, name)
            if embedding is None and value is not None:
                raise TypeError(f"this network was built without {name}s")
            if embedding is not None:
                embedded: Tensor = embedding(value)
                total = embedded if total is None else total + embedded
        return total

    def embed_level(self, log_snr: Tensor, global_condition: Tensor | None) -> Tensor:
        """Add the embedding of noise levels `(batch,)` to what `embed` returned, or None: `(batch, width)`."""
        embedding: Tensor = self.level(log_snr)
        if global_condition is None:
            global_condition = self.embed()
        elif not (self.label or self.speaker or self.vector):
            raise TypeError("this network was built without labels, speakers and vectors")
        return embedding if global_condition is None else embedding + global_condition
