"""How the learned noise levels learn: every loss is weighed by their density, and what it was moves the density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from audiodiff.config import DiffusionConfig
from audiodiff.diffusion.learned import LearnedLevels
from audiodiff.training.distributed import Distributed

LEARNING_RATE = 1e-2
"""Of the logarithms of the weights: a level that matters most is found within some hundred steps."""


class LevelLearner:
    """The map of the training levels, and the optimiser that keeps the variance of the loss small.

    Args:
        config: The range.
        distributed: Who trains, and where.
    """

    def __init__(self, config: DiffusionConfig, distributed: Distributed) -> None:
        self.levels = LearnedLevels(config.log_snr_min, config.log_snr_max).to(distributed.device)
        self._team = distributed
        self._optimiser = torch.optim.Adam(self.levels.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)

    def weigh(self, log_snr: Tensor, losses: Tensor) -> Tensor:
        """Divide losses by the density of their levels, and learn from how large they then are.

        The second moment of loss / density is what is minimised; its mean is the same for any density. By the density p
        at a given level its gradient is -(loss / p)^2 times that of log p.

        Args:
            log_snr: Levels `(batch,)` that were drawn from the map.
            losses: The loss of each clip at its level `(batch,)`.

        Returns:
            Weighted losses `(batch,)`, float32; gradients flow through the losses only.
        """
        density = self.levels.density(log_snr)
        weighted = losses / density.detach().float()
        (-(weighted.detach().double().square() * density.log()).mean()).backward()
        return weighted

    def update(self, finite: Tensor) -> None:
        """Move the map if `finite` is true, over all processes; the host does not look."""
        logits = self.levels.logits
        if logits.grad is not None:
            logits.grad = self._team.mean(logits.grad)
        self._optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: tensors and plain values only."""
        return {"map": self.levels.state_dict(), "optimiser": self._optimiser.state_dict()["state"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.levels.load_state_dict(state["map"])
        self._optimiser.load_state_dict(self._optimiser.state_dict() | {"state": state["optimiser"]})
