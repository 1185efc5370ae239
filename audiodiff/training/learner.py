"""A network that learns: what one training step does, and everything that must be kept to go on later."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.data.crops import Example
from audiodiff.networks.build import Network
from audiodiff.training.few_step import FewStepLoss
from audiodiff.training.objective import Objective, draw, draw_seeds, predict_with
from audiodiff.training.optimisation import average_decay, learning_rate, make_optimiser, update_average


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: Steps done, the skipped ones among them.
        skipped: Steps that changed nothing because loss or gradient was not finite.
        skipped_in_a_row: How many of those were the last ones.
        best_loss: Lowest validation loss so far.
        best_step: When that was.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float = math.inf
    best_step: int = 0


@dataclass(frozen=True)
class StepResult:
    """What a step reports; `finite` says whether it changed the weights."""

    loss: float
    gradient_norm: float
    learning_rate: float

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Learner:
    """Weights, their average and the optimiser of one run.

    A step is a function of these, the batch, the seed and the number of the step: nothing else, no hidden random state.

    Args:
        average: The network with averaged weights; training starts from them unless a state is loaded.
        config: The model, calibrated.
        training: How to train.
        device: Where to compute.
    """

    def __init__(self, average: Network, config: ModelConfig, training: TrainingConfig, device: torch.device) -> None:
        self.config = config
        self.training = training
        self.network = copy.deepcopy(average).to(device).train()
        self.average = average.to(device).eval().requires_grad_(False)
        self.objective = Objective(config, device, bf16=training.precision == "bf16")
        wanted = training.few_step_weight > 0
        self.few_step = FewStepLoss(self.average, config, bf16=self.objective.bf16) if wanted else None
        self.optimiser = make_optimiser(self.network.parameters(), training)
        self.progress = Progress()
        predict = predict_with(self.network)
        self._predict = torch.compile(predict, dynamic=False) if training.compile else predict

    def step(self, batch: Example) -> StepResult:
        """Take one training step; where loss or gradient is not finite, the weights stay as they are.

        Args:
            batch: What the data yields for this step.

        Returns:
            Loss, norm of the gradient before clipping, and learning rate.
        """
        progress, training = self.progress, self.training
        prepared = self.objective.prepare(batch)
        log_snr, noise = draw(prepared, self.config.diffusion, training.seed, progress.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.objective.loss(self._predict, prepared, log_snr, noise).mean()
        if self.few_step is not None:
            seeds = draw_seeds(len(prepared.clean), training.seed, progress.step)
            loss = loss + training.few_step_weight * self.few_step(self._predict, prepared, seeds).mean()
        loss.backward()
        norm = clip_grad_norm_(self.network.parameters(), training.gradient_clip)
        rate = learning_rate(progress.step, training)
        # The one place where a GPU is waited for.
        loss_value, norm_value = torch.stack([loss.detach(), norm]).tolist()
        result = StepResult(loss_value, norm_value, rate)
        progress.step += 1
        if not result.finite:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            return result
        progress.skipped_in_a_row = 0
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        update_average(self.average, self.network, average_decay(progress.step - progress.skipped, training))
        return result

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the averaged weights: tensors and plain values only."""
        return {
            "progress": asdict(self.progress),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict()["state"],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; settings of the optimiser are those of this run, not of that one."""
        self.progress = Progress(**state["progress"])
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state["optimiser"]})
