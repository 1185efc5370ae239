"""How a run starts: from a checkpoint, from another model, or from fresh weights and statistics of the data."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio.whitening import Whitening
from audiodiff.checkpoint import find_model, load_model
from audiodiff.config import ModelConfig, RunConfig, WhiteningConfig, flattened
from audiodiff.data.corpus import CropStream
from audiodiff.data.dataset import OnFailure
from audiodiff.errors import DataError, ModelError, TrainingError
from audiodiff.networks import Network, build_network
from audiodiff.training.checkpoints import Checkpoint, RunFolder, load_checkpoint
from audiodiff.training.distributed import Distributed
from audiodiff.training.loss_curve import compare_settings, measured_settings, write_history
from audiodiff.training.objective import Objective
from audiodiff.training.post_hoc_ema import keep_snapshots
from audiodiff.training.state import TrainState, check_state_dict

_MAY_CHANGE = ("whitening.gain", "mel.name", "synthesis", "provenance", "clip_seconds", "condition_dropout")
"""Parts of a model's configuration that may change while its weights stay valid."""
_NOISE_LEVELS = tuple(
    f"diffusion.{name}" for name in ("log_snr_min", "log_snr_max", "distribution", "n_levels", "betas")
)
"""Parts that may differ as well when weights are only a starting point."""

_ADDED = tuple(
    f"network.{name}" for name in ("branches", "mel_encoder_layers", "mel_encoder_channels", "look_ahead", "n_fft")
)
"""Parts of a network that weights as a starting point may lack or have otherwise; see `_extended`."""
_NAMED_ROWS = {"labels": "label.table.weight", "speakers": "speaker.table.weight"}
"""Names that a starting point may have otherwise, and the table with a row for each and a last one for none."""
STATISTICS_CROPS = 256
_BATCH = 16
_SMOOTHED_OVER = 9
"""Neighbouring lapped coefficients that share a gain."""
_LEAST_VARIANCE = 1e-6
"""Fraction of the largest variance (-60 dB) below which a band counts as empty."""
_LEAST_DEVIATION = 1e-3
"""Smallest deviation of a mel bin, so that one that never changes is not divided by zero."""

_LOG = logging.getLogger(__name__)


def resume_or_initialise(
    config: RunConfig,
    folder: RunFolder,
    resume: str | Path,
    stream: CropStream,
    distributed: Distributed,
    on_failure: OnFailure | None = None,
    *,
    allow_changes: bool = False,
) -> TrainState:
    """Return the state of a run: resumed from a checkpoint, or before its first step.

    Args:
        config: The run.
        folder: Its folder.
        resume: "auto" resumes from the newest checkpoint, if there is one; "never" refuses a folder that has some; else
            the folder of a checkpoint, or of a run, to resume from.
        stream: The training stream, to measure statistics on.
        distributed: Process group and device.
        on_failure: Called with recordings that cannot be read; without it they are errors.
        allow_changes: Whether settings that decide the result may be others than those of the steps done.

    Returns:
        The state. What the folder tells of its settings is right from here on.

    Raises:
        TrainingError: If there is nothing to resume from, or it is of another model or of other settings.
        ModelError: If the initial model cannot be loaded.
    """
    with distributed.main_first():  # which puts damaged checkpoints aside
        checkpoint = _find_checkpoint(folder, resume)
    if checkpoint is None:
        state = initialise(config, stream, distributed, on_failure)
        if distributed.is_main_process:
            folder.save_config(config)
            write_history(folder.history, [])
            keep_snapshots(folder.snapshots, folder.snapshots, 0)
        return state
    refuse_other_model(checkpoint.config, config.model, f"the checkpoint {checkpoint.path}", _MAY_CHANGE)
    model = _keep_measured(config.model, checkpoint.config)
    state = TrainState(checkpoint.ema, model, config.training, distributed, config.data.mel_noise_db)
    state.load_state_dict(checkpoint.state)
    measured = measured_settings(stream, config.training.crops_per_step * distributed.world_size)
    history = compare_settings(
        flattened(config.model_dump(mode="json")) | measured,
        checkpoint.path.resolve(),
        checkpoint.state["progress"]["step"],
        checkpoint.config.provenance.get("training", {}),
        folder.path.resolve(),
        allow=allow_changes,
    )
    if distributed.is_main_process:
        if not folder.config.is_file():
            folder.save_config(config)
        write_history(folder.history, history)
        theirs = RunFolder(checkpoint.path.resolve().parent.parent).snapshots
        keep_snapshots(theirs, folder.snapshots, state.progress.step)
    _LOG.info("resuming from %s", checkpoint.path)
    return state


def _find_checkpoint(folder: RunFolder, resume: str | Path) -> Checkpoint | None:
    existing = folder.checkpoints()
    if resume == "auto":
        return folder.newest(check_state_dict)
    if resume == "never":
        if existing:
            raise TrainingError(
                f"{folder.path} already has checkpoints, up to {existing[-1].name}. "
                "Choose another run folder, remove this one, or resume."
            )
        return None
    theirs = RunFolder(resume)
    newest = [theirs.path, *theirs.checkpoints()][-1]
    if existing and newest.resolve() != existing[-1].resolve():
        raise TrainingError(
            f"{folder.path} already has {existing[-1].name}, so going on from {newest} would mix two runs. "
            "Choose another run folder."
        )
    return theirs.newest(check_state_dict) or load_checkpoint(theirs.path, check_state_dict)


def initialise(
    config: RunConfig, stream: CropStream, distributed: Distributed, on_failure: OnFailure | None = None
) -> TrainState:
    """Return a train state before its first step: see `resume_or_initialise`."""
    training, mel_noise_db = config.training, config.data.mel_noise_db
    if training.initial_model is not None:
        name = training.initial_model
        try:
            network, initial = load_model(find_model(name))
        except ModelError as error:
            raise ModelError(f"training.initial_model: {error}") from error
        others = tuple(names for names in _NAMED_ROWS if getattr(initial, names) and getattr(config.model, names))
        may_differ = _MAY_CHANGE + _NOISE_LEVELS + _ADDED + others
        refuse_other_model(initial, config.model, f"the initial model {name}", may_differ)
        model = _keep_measured(config.model, initial)
        if initial.network != model.network or any(getattr(initial, key) != getattr(model, key) for key in others):
            network = _extended(network, initial, config)
        return TrainState(network, model, training, distributed, mel_noise_db)
    network = _fresh_network(config)
    model = measure_statistics(stream, config.model, on_failure).applied_to(network, config.model)
    return TrainState(network, model, training, distributed, mel_noise_db)


def _fresh_network(config: RunConfig) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.training.seed)
        return build_network(config.model)


def _extended(trained: Network, initial: ModelConfig, config: RunConfig) -> Network:
    """Return the network of a run with all trained weights that have the same shape there.

    Labels and speakers keep their rows by name; a new one begins as none at all.
    """
    network = _fresh_network(config)
    fresh, weights = network.state_dict(), trained.state_dict()
    for names, table in _NAMED_ROWS.items():
        theirs, ours = getattr(initial, names), getattr(config.model, names)
        if theirs != ours and table in weights:
            rows = [theirs.index(name) if name in theirs else len(theirs) for name in ours]
            weights[table] = weights[table][[*rows, len(theirs)]]
    if lost := sorted(weights.keys() - fresh.keys()):
        raise TrainingError(
            f"the initial model has weights that this configuration has no place for, such as {lost[0]}. Add what is "
            "missing to model.network (branches, mel_encoder_layers), as in the initial model's config.json."
        )
    fitting = {name: weights[name] for name in fresh if name in weights and weights[name].shape == fresh[name].shape}
    network.load_state_dict(fresh | fitting)
    new = sorted(fresh.keys() - fitting.keys())
    _LOG.info(
        "%d of %d weights are those of the initial model; new: %s", len(fitting), len(fresh), ", ".join(new) or "none"
    )
    return network


def _keep_measured(config: ModelConfig, trained: ModelConfig) -> ModelConfig:
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


class DataStatistics(NamedTuple):
    """What was measured.

    Attributes:
        gain: For `WhiteningConfig.gain`: one per lapped coefficient, or one.
        mel_mean: Mean of each mel bin `(n_mels,)`, or None without mel.
        mel_deviation: Standard deviation of each mel bin `(n_mels,)`, or None without mel.
        vectors: Mean and standard deviation of the vectors that are given `(2, vector_width)`, or None without.
    """

    gain: tuple[float, ...]
    mel_mean: Tensor | None
    mel_deviation: Tensor | None
    vectors: Tensor | None = None

    def applied_to(self, network: Network, config: ModelConfig) -> ModelConfig:
        """Give a network the statistics of mel and vectors, and return its configuration with the gain.

        A gain that the configuration states itself is kept.
        """
        if network.normalise_mel is not None and self.mel_mean is not None and self.mel_deviation is not None:
            network.normalise_mel.mean.copy_(self.mel_mean)
            network.normalise_mel.deviation.copy_(self.mel_deviation)
        if network.vector is not None and self.vectors is not None:
            network.vector.mean.copy_(self.vectors[0])
            network.vector.deviation.copy_(self.vectors[1])
        if config.whitening.gain != WhiteningConfig().gain:
            return config
        return config.model_copy(update={"whitening": config.whitening.model_copy(update={"gain": self.gain})})


def measure_statistics(stream: CropStream, config: ModelConfig, on_failure: OnFailure | None = None) -> DataStatistics:
    """Measure the first crops of the training stream.

    Args:
        stream: The training stream.
        config: The model.
        on_failure: Called with recordings that cannot be read; without it they are errors.

    Returns:
        The statistics.

    Raises:
        DataError: If all of it is silent.
    """
    plain = config.model_copy(update={"whitening": config.whitening.model_copy(update={"gain": (1.0,)})})
    objective = Objective(plain, torch.device("cpu"))
    whitening = Whitening(plain.whitening, plain.mel)
    mel_sums: list[Tensor] = []
    vectors: list[Tensor] = []
    power, weight = np.zeros(1), np.zeros(1)
    n_batches = STATISTICS_CROPS // _BATCH
    for batch in islice(stream.batches(0, _BATCH, on_failure=on_failure), n_batches):
        prepared = objective.prepare(batch)
        if prepared.mel is not None:
            mel = prepared.mel.double()
            mel_sums.append(torch.stack([mel.mean((0, 2)), mel.square().mean((0, 2))]))
        if prepared.global_conditions is not None and prepared.global_conditions.vector is not None:
            vectors.append(prepared.global_conditions.vector)
        squares, counted = _power(prepared.clean, batch.bandwidth, whitening, config)
        power, weight = power + squares, weight + counted
    gain = _gain(power, weight, config)
    statistics = DataStatistics(gain, None, None, _vector_statistics(torch.cat(vectors)) if vectors else None)
    if not mel_sums:
        return statistics
    mean, square = torch.stack(mel_sums).mean(0)
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(_LEAST_DEVIATION)
    return statistics._replace(mel_mean=mean.float(), mel_deviation=deviation.float())


def _vector_statistics(vectors: Tensor) -> Tensor | None:
    """Return mean and standard deviation `(2, vector_width)` of the rows that are not NaN; None of fewer than two."""
    there = vectors[~vectors.isnan().any(1)].double()
    if len(there) < 2:
        return None
    mean, deviation = there.mean(0), there.std(0)
    return torch.stack(
        [mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)]
    ).float()  # 1 if it never varies


def _power(
    clean: Tensor, bandwidth: Tensor, whitening: Whitening, config: ModelConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean power of each band over the clips that reach it, times their number, and their number."""
    if config.whitening.kind != "spectral":
        return np.full(1, float(clean.double().square().mean())), np.ones(1)
    coefficients = whitening.transform(clean[:, 0])
    if coefficients.shape[1] > 2:
        coefficients = coefficients[:, 1:-1]  # at its cut edges a crop leaks into all bands
    squares = coefficients.double().square().mean(1)
    reached = _frequencies(config) <= bandwidth.numpy()[:, None]
    return (squares.numpy() * reached).sum(0), reached.sum(0).astype(np.float64)


def _frequencies(config: ModelConfig) -> NDArray[np.float64]:
    """Return the centre of each lapped coefficient, in Hz."""
    return (np.arange(config.hop_length) + 0.5) * config.sample_rate / 2 / config.hop_length


def _gain(power: NDArray[np.float64], weight: NDArray[np.float64], config: ModelConfig) -> tuple[float, ...]:
    """Turn sums of power into gains: smoothed in log over neighbours, continued where no clip reaches."""
    measured = np.flatnonzero(weight)
    variance = power[measured] / weight[measured]
    if not variance.max() > 0:
        raise DataError("the training audio is silent. Look at the recordings: do they play?")
    least = _LEAST_VARIANCE * variance.max()
    if (variance < least).any():
        lowest = _frequencies(config)[measured][variance < least].min()
        _LOG.warning(
            "parts of the spectrum from %.0f Hz on are empty. If recordings were upsampled, state their `bandwidth` in "
            "the manifest, so that the loss leaves out what is not there",
            lowest,
        )
    logarithm = np.interp(np.arange(len(power)), measured, np.log(np.maximum(variance, least)))
    if len(logarithm) > 1:
        padded = np.pad(logarithm, _SMOOTHED_OVER // 2, mode="edge")
        logarithm = np.convolve(padded, np.full(_SMOOTHED_OVER, 1 / _SMOOTHED_OVER), mode="valid")
    gain = np.exp(-logarithm / 2)
    gain /= np.sqrt(np.mean(variance * gain[measured] ** 2))  # a mean of logarithms is too low
    return tuple(float(f"{value:.6g}") for value in gain)
