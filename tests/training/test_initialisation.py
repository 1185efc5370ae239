"""A run starts from fresh weights, another model's or a checkpoint, and never from what does not fit."""

import pytest
import torch

from audiodiff.checkpoint import save_model
from audiodiff.config import EmbeddingConfig
from audiodiff.data.corpus import open_recordings
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset
from audiodiff.errors import ConfigError, ModelError, TrainingError
from audiodiff.networks import build_network
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.distributed import Distributed, init_distributed
from audiodiff.training.initialisation import initialise, resume_or_initialise

DISTRIBUTED = Distributed(torch.device("cpu"))


@pytest.fixture(scope="module")
def dataset(tiny_run_config):
    recordings, _ = open_recordings(tiny_run_config.data)
    reader = CropReader.for_model(tiny_run_config.model, tiny_run_config.data)
    return CropDataset(recordings, reader, tiny_run_config.data, 0)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def saved(folder, tiny_run_config, dataset):
    """A run folder with a checkpoint of step 3."""
    state = initialise(tiny_run_config, dataset, DISTRIBUTED)
    state.progress.step = 3
    folder.save(3, state.state_dict(), state.ema, state.config)
    folder.save_config(tiny_run_config)
    return state


def flat(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


def changed(config, **parts):
    """Change parts of a run's configuration; a name such as network__layers is a path in the model."""
    for name, value in parts.items():
        outer, _, inner = name.partition("__")
        part = getattr(config.model, outer).model_copy(update={inner: value}) if inner else value
        config = config.model_copy(update={"model": config.model.model_copy(update={outer: part})})
    return config


def training(config, **settings):
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def test_fresh_weights_depend_on_the_seed_alone(tiny_run_config, dataset):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = initialise(tiny_run_config, dataset, DISTRIBUTED), initialise(tiny_run_config, dataset, DISTRIBUTED)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(flat(first.network), flat(second.network))
    assert not torch.equal(
        flat(first.network), flat(initialise(training(tiny_run_config, seed=1), dataset, DISTRIBUTED).network)
    )


def test_fresh_models_are_calibrated(tiny_run_config, dataset):
    state = initialise(tiny_run_config, dataset, DISTRIBUTED)
    assert len(state.config.whitening.gain) == 64
    for network in (state.network, state.ema):
        assert float(network.normalise_mel.mean.abs().max()) > 1


def test_auto_begins_where_there_is_nothing(folder, tiny_run_config, dataset):
    assert resume_or_initialise(tiny_run_config, folder, "auto", dataset, DISTRIBUTED).progress.step == 0


def test_auto_goes_on_where_there_is_something(folder, saved, tiny_run_config, dataset):
    state = resume_or_initialise(tiny_run_config, folder, "auto", dataset, DISTRIBUTED)
    assert state.progress.step == 3
    assert state.config == saved.config


def test_never_refuses_a_folder_with_checkpoints(folder, tiny_run_config, dataset, saved):
    with pytest.raises(TrainingError, match="already has checkpoints, up to step-00000003"):
        resume_or_initialise(tiny_run_config, folder, "never", dataset, DISTRIBUTED)


def test_never_begins_in_an_empty_folder(folder, tiny_run_config, dataset):
    assert resume_or_initialise(tiny_run_config, folder, "never", dataset, DISTRIBUTED).progress.step == 0


@pytest.mark.parametrize("inside", ["", "checkpoints/step-00000003"])
def test_another_run_or_checkpoint_can_be_gone_on_from(folder, saved, tiny_run_config, dataset, tmp_path, inside):
    state = resume_or_initialise(
        tiny_run_config, RunFolder(tmp_path / "other"), folder.path / inside, dataset, DISTRIBUTED
    )
    assert state.progress.step == 3


def test_two_runs_are_not_mixed(folder, saved, tiny_run_config, dataset, tmp_path):
    other = RunFolder(tmp_path / "other")
    other.save(1, saved.state_dict(), saved.ema, saved.config)
    with pytest.raises(TrainingError, match="would mix two runs"):
        resume_or_initialise(tiny_run_config, other, folder.path, dataset, DISTRIBUTED)
    assert (
        resume_or_initialise(tiny_run_config, folder, folder.checkpoints()[-1], dataset, DISTRIBUTED).progress.step == 3
    )


def test_resuming_from_nothing_is_refused(folder, tiny_run_config, dataset, tmp_path):
    with pytest.raises(TrainingError, match="absent is no checkpoint"):
        resume_or_initialise(tiny_run_config, folder, tmp_path / "absent", dataset, DISTRIBUTED)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"network__layers": 3}, "model.network.layers is 2 there and 3 here"),
        ({"whitening__exponent": 1.0}, "model.whitening.exponent is 0.5 there and 1.0 here"),
        ({"diffusion__log_snr_max": 9.0}, "model.diffusion.log_snr_max is 10.0 there and 9.0 here"),
        ({"labels": ("a",)}, r"model.labels is \[\] there and \['a'\] here"),
        ({"mel": None}, "model.mel is None here|model.mel.f_max is 4000.0 there"),
    ],
)
def test_another_model_is_refused_by_name(folder, saved, tiny_run_config, dataset, part, named):
    with pytest.raises(TrainingError, match=named):
        resume_or_initialise(changed(tiny_run_config, **part), folder, "auto", dataset, DISTRIBUTED)


def test_what_does_not_touch_the_weights_may_change(folder, saved, tiny_run_config, dataset):
    config = changed(
        tiny_run_config, synthesis__steps=9, provenance={"licence": "CC0"}, clip_seconds=2.0, mel__name="of ours"
    )
    state = resume_or_initialise(config, folder, "auto", dataset, DISTRIBUTED)
    assert state.config.synthesis.steps == 9
    assert state.config.whitening == saved.config.whitening


def test_an_initial_model_lends_weights_and_calibration(tiny_run_config, dataset, tmp_path):
    other = initialise(training(tiny_run_config, seed=5), dataset, DISTRIBUTED)
    lent = changed(tiny_run_config, whitening__gain=(2.0,) * 64).model
    save_model(tmp_path / "model", other.ema.state_dict(), lent)
    config = training(tiny_run_config, initial_model=str(tmp_path / "model"))
    state = initialise(changed(config, diffusion__log_snr_max=9.0), dataset, DISTRIBUTED)
    assert torch.equal(flat(state.network), flat(other.ema))
    assert state.config.whitening.gain == (2.0,) * 64
    assert state.config.diffusion.log_snr_max == 9.0
    assert (state.progress.step, state.optimiser.state_dict()["state"]) == (0, {})


def test_labels_of_an_initial_model_keep_their_rows_by_name(tiny_run_config, dataset, tmp_path):
    theirs = changed(tiny_run_config, labels=("kick", "snare")).model
    network = build_network(theirs)
    save_model(tmp_path / "model", network.state_dict(), theirs)
    config = changed(training(tiny_run_config, initial_model=str(tmp_path / "model")), labels=("bell", "snare", "kick"))
    state = initialise(config, dataset, DISTRIBUTED)
    kick, snare, none = network.label.table.weight
    assert torch.equal(state.network.label.table.weight, torch.stack([none, snare, kick, none]))
    rest = [name for name in network.state_dict() if name != "label.table.weight"]
    assert all(torch.equal(network.state_dict()[name], state.network.state_dict()[name]) for name in rest)


def test_an_initial_model_of_another_shape_is_refused(tiny_run_config, dataset, tmp_path):
    other = changed(tiny_run_config, network__embedding=EmbeddingConfig(width=8, centres=8)).model
    save_model(tmp_path / "model", build_network(other).state_dict(), other)
    with pytest.raises(TrainingError, match="initial model .*model.network.embedding.width is 8 there and 16 here"):
        initialise(training(tiny_run_config, initial_model=str(tmp_path / "model")), dataset, DISTRIBUTED)
    with pytest.raises(ModelError):
        initialise(training(tiny_run_config, initial_model=str(tmp_path / "absent")), dataset, DISTRIBUTED)


def test_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda' is not available; available: auto, cpu"):
        init_distributed("cuda")
