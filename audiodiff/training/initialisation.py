"""Where a run starts: from fresh weights, from another model's, or from a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from audiodiff.checkpoint import find_model, load_model
from audiodiff.config import ModelConfig, RunConfig, flattened
from audiodiff.data.corpus import CropStream
from audiodiff.data.dataset import OnFailure
from audiodiff.errors import TrainingError
from audiodiff.networks.build import Network, build_network
from audiodiff.training.calibration import calibrate
from audiodiff.training.checkpoints import Checkpoint, RunFolder, load_checkpoint
from audiodiff.training.distributed import Distributed
from audiodiff.training.state import TrainState

_MEASURED_OR_SAID = ("whitening.gain", "mel.name", "synthesis", "provenance", "clip_seconds", "condition_dropout")
"""Parts of a model's configuration that may change while its weights stay valid."""
_LEVELS = ("diffusion.log_snr_min", "diffusion.log_snr_max", "diffusion.distribution", "diffusion.levels")
"""Parts that may differ as well when weights are only a starting point."""

_ADDED = tuple(
    f"network.{name}" for name in ("branches", "mel_encoder_layers", "mel_encoder_channels", "look_ahead", "n_fft")
)
"""Parts of a network that weights as a starting point may lack or have otherwise; see `_extended`."""

_LOG = logging.getLogger(__name__)


def start(
    config: RunConfig,
    folder: RunFolder,
    resume: str | Path,
    stream: CropStream,
    distributed: Distributed,
    on_failure: OnFailure | None = None,
) -> TrainState:
    """Return the state of a run, new or as it was.

    Args:
        config: The run.
        folder: Its folder.
        resume: "auto" goes on from the newest checkpoint, if there is one; "never" refuses a folder that has some; else
            the folder of a checkpoint, or of a run, to go on from.
        stream: The training stream, to measure statistics on.
        distributed: Who trains, and where.
        on_failure: Told of recordings that cannot be read; without it they are errors.

    Returns:
        The state.

    Raises:
        TrainingError: If there is nothing to resume from, or it is of another model.
        ModelError: If the initial model cannot be loaded.
    """
    with distributed.main_first():  # which puts damaged checkpoints aside
        checkpoint = _find(folder, resume)
    if checkpoint is None:
        return begin(config, stream, distributed, on_failure)
    refuse_other_model(checkpoint.config, config.model, f"the checkpoint {checkpoint.path}", _MEASURED_OR_SAID)
    model = _as_far_as(config.model, checkpoint.config)
    state = TrainState(checkpoint.ema, model, config.training, distributed, config.data.mel_noise_db)
    state.load_state_dict(checkpoint.state)
    _LOG.info("resuming from %s", checkpoint.path)
    return state


def _find(folder: RunFolder, resume: str | Path) -> Checkpoint | None:
    existing = folder.checkpoints()
    if resume == "auto":
        return folder.newest()
    if resume == "never":
        if existing:
            raise TrainingError(
                f"{folder.path} already has checkpoints, up to {existing[-1].name}. "
                "Choose another run folder, remove this one, or resume."
            )
        return None
    path = Path(resume)
    inside = RunFolder(path).checkpoints()
    path = inside[-1] if inside else path
    if existing and path.resolve() != existing[-1].resolve():
        raise TrainingError(
            f"{folder.path} already has {existing[-1].name}, so going on from {path} would mix two runs. "
            "Choose another run folder."
        )
    return load_checkpoint(path)


def begin(
    config: RunConfig, stream: CropStream, distributed: Distributed, on_failure: OnFailure | None = None
) -> TrainState:
    """Return a train state before its first step: see `start`."""
    training, mel_noise_db = config.training, config.data.mel_noise_db
    if training.initial_model is not None:
        name = training.initial_model
        network, initial = load_model(find_model(name))
        refuse_other_model(initial, config.model, f"the initial model {name}", _MEASURED_OR_SAID + _LEVELS + _ADDED)
        model = _as_far_as(config.model, initial)
        if initial.network != model.network:
            network = _extended(network, config)
        return TrainState(network, model, training, distributed, mel_noise_db)
    network = _fresh_network(config)
    model = calibrate(stream, config.model, on_failure).applied_to(network, config.model)
    return TrainState(network, model, training, distributed, mel_noise_db)


def _fresh_network(config: RunConfig) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.training.seed)
        return build_network(config.model)


def _extended(trained: Network, config: RunConfig) -> Network:
    """Return the network of a run with all trained weights that have the same shape there."""
    network = _fresh_network(config)
    fresh, weights = network.state_dict(), trained.state_dict()
    fitting = {name: weights[name] for name in fresh if name in weights and weights[name].shape == fresh[name].shape}
    network.load_state_dict(fresh | fitting)
    new = sorted(fresh.keys() - fitting.keys())
    _LOG.info("%d of %d weights are those of the initial model; new: %s", len(fitting), len(fresh), ", ".join(new))
    return network


def _as_far_as(config: ModelConfig, trained: ModelConfig) -> ModelConfig:
    """Return a configuration with what earlier training has measured and noted."""
    noted = {name: getattr(trained, name) for name in ("whitening", "condition_dropout")}
    return config.model_copy(update=noted)


def refuse_other_model(theirs: ModelConfig, ours: ModelConfig, who: str, may_differ: tuple[str, ...]) -> None:
    """Refuse weights that were trained as another model.

    Args:
        theirs: The configuration that belongs to the weights.
        ours: The configuration of this run.
        who: What the weights are, for the message.
        may_differ: Parts, as dotted names, that do not matter.

    Raises:
        TrainingError: If anything else differs; the message names it.
    """
    left, right = (flattened(config.model_dump(mode="json")) for config in (theirs, ours))
    differing = [
        f"model.{name} is {left.get(name)!r} there and {right.get(name)!r} here"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name) and not any(f"{name}.".startswith(f"{part}.") for part in may_differ)
    ]
    if differing:
        raise TrainingError(
            f"{who} is another model: {'; '.join(differing)}. Keep the model part, or use another run folder."
        )
