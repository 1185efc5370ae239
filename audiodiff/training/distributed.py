"""Data-parallel training in several processes, by accelerate; or in one, without it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from audiodiff.checkpoint import choose_device
from audiodiff.data.dataset import SINGLE_PROCESS, Replica
from audiodiff.errors import TrainingError, needed
from audiodiff.networks import Network
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.training.objective import Predict, predict_with

if TYPE_CHECKING:
    from accelerate import Accelerator


_TIMEOUT = timedelta(hours=2)
"""How long processes wait for the main one, which validates and saves alone; the default of backends is 10 minutes."""


class Distributed:
    """Connects this process with the others that train the same model; alone, it does nothing.

    Args:
        device: Where this process computes.
        accelerator: What connects it with the others, or None if there are none.

    Attributes:
        device: Where this process computes.
        replica: Rank and world size.
    """

    def __init__(self, device: torch.device, accelerator: Accelerator | None = None) -> None:
        self.device = device
        self._accelerator = accelerator
        self.replica = Replica(accelerator.process_index, accelerator.num_processes) if accelerator else SINGLE_PROCESS

    def __enter__(self) -> Distributed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._accelerator is not None and error is None:
            self._accelerator.end_training()

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.replica.rank == 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.replica.world_size

    def wrap(self, network: Network) -> Predict:
        """Return the forward pass of a network; in its backward pass gradients are averaged over all processes."""
        if self._accelerator is None:
            return predict_with(network)
        with warnings.catch_warnings():  # torch 2.13 renames it, accelerate 1.15 does not know the new name
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            prepared: Predict = self._accelerator.prepare(_Predictor(network))
        return prepared

    def accumulating(self, predict: Predict) -> AbstractContextManager[Any]:
        """Return what backward passes run under whose gradients are not averaged yet.

        Args:
            predict: What `wrap` returned.
        """
        return nullcontext() if self._accelerator is None else self._accelerator.no_sync(predict)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self._accelerator is None:
            return value
        mean: Tensor = self._accelerator.reduce(value, reduction="mean")
        return mean

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process run the block before the others do."""
        if self._accelerator is None:
            yield
            return
        with self._accelerator.main_process_first():
            yield


class _Predictor(nn.Module):
    """A whole forward pass as a module, which is what accelerate prepares."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._predict = predict_with(network)

    def forward(self, x: Tensor, log_snr: Tensor, mel: Tensor | None, given: GlobalConditions | None) -> Tensor:
        """Predict; see `audiodiff.training.objective.Predict`."""
        return self._predict(x, log_snr, mel, given)


def init_distributed(device: str) -> Distributed:
    """Connect with the processes that `accelerate launch` or torchrun has started, if there are any.

    Args:
        device: "auto", "cpu" or "cuda", as in `TrainingConfig.device`.

    Raises:
        ConfigError: If there is no CUDA device although one is asked for.
        MissingPackageError: If accelerate is not installed.
        TrainingError: If the environment says that there are several processes, and not how to reach them.
    """
    chosen = choose_device(device)
    world_size = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if world_size == "1":
        return Distributed(chosen)
    with needed("train", "training in several processes"):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    # Buffers never change in training, and to send them would spoil a network that is called twice in one step.
    how = [DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=_TIMEOUT)]
    try:
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=how)
    except (ValueError, RuntimeError, KeyError) as error:
        raise TrainingError(
            f"WORLD_SIZE is {world_size}, and the processes cannot find each other ({error}). Start them "
            "by `accelerate launch` or `torchrun`, or unset WORLD_SIZE to train in one process."
        ) from error
    distributed = Distributed(accelerator.device, accelerator)
    if not distributed.is_main_process:
        logging.getLogger("audiodiff").setLevel(logging.ERROR)
    return distributed
