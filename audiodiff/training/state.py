"""The state of training and its step: the network, its EMA and the optimiser."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parametrize

from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.data.crops import Example
from audiodiff.engine.choose import choose_dtype
from audiodiff.errors import TrainingError
from audiodiff.networks import Network
from audiodiff.networks.base import isolated
from audiodiff.networks.embeddings import radial_parameters
from audiodiff.training.distributed import Distributed
from audiodiff.training.objective import Batch, FewStepLoss, LossWeighting, Objective
from audiodiff.training.optimiser import (
    checkpoint_layers,
    describe_trainable,
    ema_decay,
    learning_rate,
    make_optimiser,
    set_learning_rate,
    set_trainable,
    update_ema,
)
from audiodiff.training.post_hoc_ema import PowerAverages
from audiodiff.training.randomness import draw_noise, draw_seeds, drop_conditions, mel_noise

_RENAMED = {"ends": "all_but_trunk"}
"""What checkpoints of older versions call `training.trained`."""


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: Steps done, the skipped ones among them.
        skipped: Steps that changed nothing because loss or gradient was not finite.
        skipped_in_a_row: How many of those were the last ones.
        best_loss: Lowest validation loss so far.
        best_step: When that was.
        seconds: Wall-clock time used so far, of a run that has `training.minutes`.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


def check_state_dict(state_dict: dict[str, Any]) -> None:
    """Refuse what `TrainState.state_dict` did not return.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part is something else.
    """
    Progress(**state_dict["progress"])
    for name in ("network", "optimiser"):
        if not isinstance(state_dict[name], dict):
            raise TypeError(f"the state holds a {type(state_dict[name]).__name__} as {name}")


@dataclass(frozen=True)
class StepResult:
    """What a step reports; `finite` says whether it changed the weights.

    Attributes:
        step: Its number, from 1 on.
        loss: The loss, over all processes.
        gradient_norm: Norm of the gradient before clipping.
        learning_rate: The learning rate.
        skipped: Steps so far that changed nothing.
        skipped_in_a_row: How many of those were the last ones.
        stop: Whether any of the processes wants to end the run.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: int
    skipped_in_a_row: int
    stop: bool

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class _Pending(NamedTuple):
    """Figures of a step on their way from the device: loss, whether to stop, time used, norm of the gradient."""

    step: int
    learning_rate: float
    figures: Tensor
    arrival: torch.cuda.Event | None

    @classmethod
    def send(cls, step: int, learning_rate: float, figures: Tensor) -> _Pending:
        """Begin to copy figures to the host, without waiting for them."""
        if not figures.is_cuda:
            return cls(step, learning_rate, figures, None)
        figures = figures.to("cpu", non_blocking=True)
        arrival = torch.cuda.Event()
        arrival.record()
        return cls(step, learning_rate, figures, arrival)


class TrainState:
    """Weights, their EMA and the optimiser of one run.

    A step is a function of these, the batch, the seed and the number of the step: nothing else, no hidden random state.
    The host never waits for a GPU within a step: whether loss and gradient are finite is decided there, and what a step
    reports is read `lag` steps later.

    Args:
        ema: The network with the weights to start from, which is copied.
        config: The model, calibrated.
        training: How to train.
        distributed: Process group and device.
        mel_noise_db: Standard deviation of the noise on mels, in dB.

    Attributes:
        power_averages: Averages for the search after training, or None.
        lag: Steps after which a step's figures are read: 1 on a GPU, 0 elsewhere. It changes no weight.
    """

    def __init__(
        self,
        ema: Network,
        config: ModelConfig,
        training: TrainingConfig,
        distributed: Distributed,
        mel_noise_db: float = 0.0,
    ) -> None:
        dropout = max(config.condition_dropout, training.condition_dropout)  # fine-tuning keeps what was learnt before
        self.config = config = config.model_copy(update={"condition_dropout": dropout})
        self.training = training
        self.distributed = distributed
        self.lag = 1 if distributed.device.type == "cuda" else 0
        self.network = copy.deepcopy(ema).to(distributed.device).train()
        set_trainable(self.network, training)
        self.ema = copy.deepcopy(ema).to(distributed.device).eval().requires_grad_(False)
        post_hoc = training.post_hoc_ema
        self.power_averages = None if post_hoc is None else PowerAverages(self.ema, post_hoc.widths)
        bf16 = choose_dtype(training.precision, distributed.device) == torch.bfloat16
        self.objective = Objective(config, distributed.device, bf16=bf16)
        self._weighting = LossWeighting(training, config.diffusion.target)
        wanted = training.few_step_weight > 0
        self.few_step = FewStepLoss(self.ema, config, bf16=self.objective.bf16) if wanted else None
        self.optimiser = make_optimiser(self.network.parameters(), training, radial_parameters(self.network))
        self.progress = Progress()
        self._mel_noise_db = mel_noise_db
        self._updates = torch.zeros((), dtype=torch.float64, device=distributed.device)
        self._pending: deque[_Pending] = deque()
        self._elapsed = deque([(0, 0.0)])  # step, and the fraction of time that was used there
        self._mid_step = False  # whether an error has left weights, EMA and optimiser at different steps
        if training.gradient_checkpointing:
            checkpoint_layers(self.network)
        self._wrapped = distributed.wrap(self.network)
        self._predict = torch.compile(self._wrapped, dynamic=False) if training.compile else self._wrapped

    @isolated("on")
    def step(self, examples: Example, *, stop: bool = False, elapsed: float = 0.0) -> list[StepResult]:
        """Take one training step; where loss or gradient is not finite, the weights stay as they are.

        Args:
            examples: What the data yields for this step.
            stop: Whether this process wants to end the run; all learn of it.
            elapsed: Fraction of the run's time that is used; the learning rate follows that of an earlier step, where
                all processes agree on it.

        Returns:
            The results that are known by now: of this step, or of the step `lag` steps before.
        """
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward(examples)
        norm = clip_grad_norm_(self.network.parameters(), self.training.gradient_clip or math.inf)
        shared = torch.stack([loss, torch.full_like(norm, float(stop)), torch.full_like(norm, elapsed)])
        figures = torch.stack([*self.distributed.mean(shared), norm])
        rate = learning_rate(self.progress.step, self.training, self._agreed_elapsed())
        self._mid_step = True
        self._update(figures.isfinite().all(), rate)
        self.progress.step += 1
        self._mid_step = False
        self._pending.append(_Pending.send(self.progress.step, rate, figures))
        return self._read(self.lag)

    def _backward(self, examples: Example) -> Tensor:
        """Add up the gradients of a step, batch by batch, and return the mean loss.

        What is random is drawn for all batches together, so that they are parts of the large one.
        """
        training, step, replica = self.training, self.progress.step, self.distributed.replica
        noise_on_mel = mel_noise(self._mel_noise_db, training.seed, step, replica) if self._mel_noise_db else None
        batch = self.objective.prepare(examples, noise_on_mel)
        log_snr, noise = draw_noise(batch, self.config.diffusion, training.seed, step, replica)
        partial = drop_conditions(batch, training.condition_dropout, self.config, training.seed, step, replica)
        seeds = draw_seeds(len(batch.clean), training.seed, step, replica) if self.few_step is not None else []
        size = len(batch.clean) // training.gradient_accumulation_steps
        total = torch.zeros((), device=self.distributed.device)
        for i, (whole, part) in enumerate(zip(batch.split(size), partial.split(size), strict=True)):
            clips = slice(i * size, (i + 1) * size)
            last = i + 1 == training.gradient_accumulation_steps
            # Adapters are merged once per backward pass, however often the network is called.
            with parametrize.cached(), nullcontext() if last else self.distributed.accumulating(self._wrapped):
                loss = self.objective.loss(self._predict, part, log_snr[clips], noise[clips], self._weighting).mean()
                if self.few_step is not None:
                    loss = loss + self._few_step_loss(self.few_step, whole, seeds[clips])
                loss = loss / training.gradient_accumulation_steps
                loss.backward()
            total += loss.detach()
        return total

    def _few_step_loss(self, few_step: FewStepLoss, batch: Batch, seeds: Sequence[int]) -> Tensor:
        """Return the weighted loss of the unrolled reverse process."""
        training, step = self.training, self.progress.step
        generated = few_step.generate(self._predict, batch, seeds, few_step.draw_settings(training, step))
        distances = few_step.distance(generated, few_step.reference(batch), batch.bandwidth)
        return training.few_step_weight * distances.mean()

    def _update(self, finite: Tensor, rate: float) -> None:
        """Move weights and EMA if `finite` is true; the host does not look."""
        set_learning_rate(self.optimiser, rate)
        self.optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
        self.optimiser.step()
        self._updates += finite
        weight = (1 - ema_decay(self._updates, self.training)) * finite
        update_ema(dict(self.ema.named_parameters()), self.network, weight)
        if self.power_averages is not None:
            self.power_averages.update(self.network, self._updates, finite)

    def _agreed_elapsed(self) -> float:
        """Return the fraction of time used `lag` steps before, which all processes know, also if one has flushed."""
        while len(self._elapsed) > 1 and self._elapsed[1][0] <= self.progress.step - self.lag:
            self._elapsed.popleft()
        return self._elapsed[0][1]

    def flush(self) -> list[StepResult]:
        """Wait for the results that are still on their way, and return them."""
        return self._read(0)

    def _read(self, n_left: int) -> list[StepResult]:
        results = []
        while len(self._pending) > n_left:
            step, rate, figures, arrival = self._pending.popleft()
            if arrival is not None:
                arrival.synchronize()
            loss, stop, elapsed, norm = figures.tolist()
            self._elapsed.append((step, elapsed))
            finite = math.isfinite(loss) and math.isfinite(norm)
            progress = self.progress
            progress.skipped += not finite
            progress.skipped_in_a_row = 0 if finite else progress.skipped_in_a_row + 1
            results.append(StepResult(step, loss, norm, rate, progress.skipped, progress.skipped_in_a_row, stop > 0))
        return results

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the EMA: tensors and plain values only.

        Raises:
            RuntimeError: If results are still on their way, see `flush`; or if the last step failed midway.
        """
        if self._pending or self._mid_step:
            raise RuntimeError("there is nothing to save: the last step is not complete")
        state = {
            "progress": asdict(self.progress),
            "trained": describe_trainable(self.training),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict()["state"],
        }
        if self.power_averages is not None:
            state["power_averages"] = self.power_averages.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; settings of the optimiser are those of this run, not of that one.

        Raises:
            TrainingError: If other parts of the network were trained, or other averages kept.
        """
        theirs, ours = state_dict.get("trained", "all"), describe_trainable(self.training)
        theirs = _RENAMED.get(theirs, theirs)
        if theirs != ours:
            raise TrainingError(
                f"the checkpoint is of a run that trained {theirs}, this one trains {ours}. Keep training.trained and "
                "training.adapters, or begin another run with training.initial_model."
            )
        self.progress = Progress(**state_dict["progress"])
        if self.training.minutes is not None:
            self._elapsed = deque([(0, min(self.progress.seconds / (60 * self.training.minutes), 1.0))])
        self._updates.fill_(self.progress.step - self.progress.skipped)
        self.network.load_state_dict(state_dict["network"])
        if self.power_averages is not None:
            self.power_averages.load_state_dict(state_dict.get("power_averages"))
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state_dict["optimiser"]})
