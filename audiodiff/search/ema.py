"""Search the width of the EMA of a training run after training, by validation loss; see `training.post_hoc_ema`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from audiodiff.checkpoint import choose_device, load_model, save_model
from audiodiff.config import ModelConfig, load_run_config
from audiodiff.data.corpus import open_recordings, open_source
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import validation_crops
from audiodiff.engine.choose import choose_dtype
from audiodiff.errors import ModelError, TrainingError
from audiodiff.networks import Network
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.objective import FewStepLoss, Objective
from audiodiff.training.post_hoc_ema import Snapshot, list_snapshots, read_snapshot, reconstruct
from audiodiff.training.validation import Validator

LARGEST_ERROR = 0.1
"""Relative error of a profile above which it is another average than the one that was asked for."""


class OpenRun(NamedTuple):
    """A run whose averages can be put together and measured.

    Attributes:
        folder: Its folder.
        network: A network of its shape on the device, whose parameters may be replaced.
        config: The model as of the last checkpoint.
        snapshots: Oldest first.
        validate: Returns the validation loss of a network.
    """

    folder: RunFolder
    network: Network
    config: ModelConfig
    snapshots: list[Snapshot]
    validate: Callable[[Network], float]


class Width(NamedTuple):
    """A width that was tried.

    Attributes:
        width: The relative width.
        error: Of the profile, relative, in L2.
        loss: Validation loss; infinite where the error is too large.
    """

    width: float
    error: float
    loss: float


class SearchResult(NamedTuple):
    """What a search came to.

    Attributes:
        best: The width that was written.
        tried: All widths.
        plain: `best` and `last` of the run to their validation losses, measured here too.
    """

    best: Width
    tried: list[Width]
    plain: Mapping[str, float]


def open_run(path: Path, data: str | None = None, device: str = "auto") -> OpenRun:
    """Open the folder of a training run.

    Args:
        path: The folder.
        data: A manifest or folder of recordings to validate on; without it those of the run.
        device: Where to compute.

    Raises:
        TrainingError: If it has no snapshots, or one is damaged.
        AudiodiffError: If its configuration, its model or the recordings cannot be used.
    """
    folder = RunFolder(path)
    snapshots = [read_snapshot(file)[0] for file in list_snapshots(folder.snapshots)]
    if not snapshots:
        raise TrainingError(
            f"{folder.snapshots} has no snapshots. Train with training.post_hoc_ema={{}} to keep averages; a run that "
            "has begun without cannot be given any."
        )
    run = load_run_config(folder.config)
    chosen = choose_device(device)
    network, config = load_model(folder.last, chosen)
    source = data or run.data.valid
    recordings = open_source(source) if source else open_recordings(run.data)[1]
    training = run.training.model_copy(update={"validation_bits": False})
    objective = Objective(config, chosen, bf16=choose_dtype(training.precision, chosen) == torch.bfloat16)
    few_step = FewStepLoss(network, config, bf16=objective.bf16) if training.few_step_weight else None
    crops = validation_crops(recordings, CropReader.for_model(config, run.data), training.validation_crops)
    validator = Validator(crops, objective, training, few_step)
    return OpenRun(folder, network, config, snapshots, lambda network: validator(network).loss)


def search_widths(
    run: OpenRun, widths: Sequence[float], output: Path, on_width: Callable[[], object] = lambda: None
) -> SearchResult:
    """Measure averages of these widths, and write the model with the best.

    Args:
        run: What `open_run` returned.
        widths: Relative widths.
        output: Folder of the model.
        on_width: Called after each.

    Returns:
        The losses.

    Raises:
        TrainingError: If a snapshot is damaged, or none of the widths is resolved.
        ModelError: If a snapshot is of another network.
        OutputError: If the model cannot be written.
    """
    device = next(run.network.parameters()).device
    paths = (run.folder.best, run.folder.last)
    plain = {path.name: run.validate(load_model(path, device)[0]) for path in paths if path.exists()}
    tried = []
    for width in widths:
        error = _set_average(run, width)
        tried.append(Width(width, error, run.validate(run.network) if error <= LARGEST_ERROR else float("inf")))
        on_width()
    best = min(tried, key=lambda each: each.loss)
    if best.error > LARGEST_ERROR:
        raise TrainingError(
            f"the {len(run.snapshots)} snapshots in {run.folder.snapshots} resolve none of these widths. Ask for one "
            "nearer to those of training.post_hoc_ema, or train with a lower snapshot_every."
        )
    _set_average(run, best.width)
    noted = run.config.provenance.get("training", {}) | {"ema_width": best.width, "validation_loss": best.loss}
    config = run.config.model_copy(update={"provenance": run.config.provenance | {"training": noted}})
    save_model(output, run.network.state_dict(), config)
    return SearchResult(best, tried, plain)


def _set_average(run: OpenRun, width: float) -> float:
    """Give the network the average of a width, and return the error of the profile."""
    average, error = reconstruct(run.snapshots, width)
    parameters = dict(run.network.named_parameters())
    if {name: value.shape for name, value in average.items()} != {name: p.shape for name, p in parameters.items()}:
        raise ModelError(f"the snapshots in {run.folder.snapshots} are of another network than {run.folder.last}.")
    with torch.no_grad():
        for name, value in average.items():
            parameters[name].copy_(value)
    return error
