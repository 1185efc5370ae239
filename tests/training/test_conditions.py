"""Training on files with speakers and vectors learns to use them: to know none costs, a wrong one costs more."""

import math
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.config import DataConfig, DiffusionConfig, ModelConfig, NetworkConfig, RunConfig, TrainingConfig
from audiodiff.data.corpus import open_corpus
from audiodiff.data.dataset import validation_crops
from audiodiff.data.manifest import scan_folder, write_manifest
from audiodiff.training.distributed import Distributed
from audiodiff.training.initialisation import initialise
from audiodiff.training.validation import Validator, choose_samples, make_clips

N_SAMPLES = 256


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Give a run on sounds whose phase tells the speaker and whose two partials are the vector."""
    folder, random = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    phase = 2 * math.pi * np.arange(N_SAMPLES) / 16
    extras = {}
    for i in range(24):
        vector, speaker = random.uniform(-1, 1, 2), i % 2
        sound = (-1) ** speaker * np.sin(phase) + 2 * (vector[0] * np.sin(2 * phase) + vector[1] * np.cos(3 * phase))
        soundfile.write(folder / f"{i:02}.wav", 0.1 * sound, 8000, subtype="FLOAT")
        np.save(folder / f"{i:02}.npy", 50 + 0.1 * vector)
        extras[f"{i:02}"] = {"speaker": ("ann", "bob")[speaker], "vector": folder / f"{i:02}.npy"}
    recordings = [r.model_copy(update=extras[r.audio.stem]) for r in scan_folder(folder).recordings]
    for name, part in (("train", recordings[:16]), ("valid", recordings[16:])):
        write_manifest(folder / f"{name}.jsonl", part)
    return RunConfig(
        model=ModelConfig(
            sample_rate=8000,
            speakers=("ann", "bob"),
            vector_width=2,
            network=NetworkConfig(channels=16, layers=2, patch=16),
            diffusion=DiffusionConfig(target="x0", log_snr_min=-8, log_snr_max=4),
        ),
        data=DataConfig(
            train=str(folder / "train.jsonl"),
            valid=str(folder / "valid.jsonl"),
            crop_seconds=N_SAMPLES / 8000,
            polarity=False,
            gain_db=(0, 0),
        ),
        training=TrainingConfig(
            batch_size=16, steps=80, learning_rate=1e-2, warmup_steps=5, device="cpu", ema_decay=0.9,
            validation_levels=4, condition_dropout=0.1,
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(config):
    corpus, distributed = open_corpus(config), Distributed(torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audiodiff.training.initialisation.STATISTICS_CROPS", 48)
        state = initialise(config, corpus.training, distributed)
    batches = list(islice(corpus.training.batches(0, config.training.batch_size), 6))
    for step in range(config.training.steps):
        state.step(batches[step % len(batches)])
    return state, corpus


def loss(state, crops):
    return Validator(crops, state.objective, state.training)(state.ema).loss


def test_a_wrong_condition_costs_and_none_lies_between(config, trained):
    state, corpus = trained
    crops = validation_crops(corpus.validation, corpus.training.reader, 8)
    right = loss(state, crops)
    others = crops[1:] + crops[:1]
    wrong_speaker = loss(state, [crop._replace(speaker=1 - crop.speaker) for crop in crops])
    wrong_vector = loss(state, [a._replace(vector=b.vector) for a, b in zip(crops, others, strict=True)])
    no_speaker = loss(state, [crop._replace(speaker=torch.tensor(2)) for crop in crops])
    no_vector = loss(state, [crop._replace(vector=torch.full((2,), torch.nan)) for crop in crops])
    assert right < 0.9 * no_speaker
    assert no_speaker < wrong_speaker
    assert right < 0.9 * no_vector
    assert no_vector < wrong_vector


def test_the_statistics_of_vectors_are_measured(trained):
    embedding = trained[0].ema.vector
    torch.testing.assert_close(embedding.mean, torch.full((2,), 50.0), rtol=0, atol=0.05)
    torch.testing.assert_close(embedding.deviation, torch.full((2,), 0.1 / 3**0.5), rtol=0.3, atol=0)


def test_samples_follow_their_recordings(trained):
    state, corpus = trained
    samples = choose_samples(corpus.validation, corpus.training.reader, 16)
    assert [sample.conditions["speaker"] for sample in samples] == [corpus.validation[i].speaker for i in (0, 2, 5)]
    turned = [sample._replace(conditions=sample.conditions | {"speaker": None}) for sample in samples]
    clips, others = (make_clips(state.ema, state.config, chosen) for chosen in (samples, turned))
    assert len(clips) == 3
    assert not any(torch.equal(a.generated, b.generated) for a, b in zip(clips, others, strict=True))
    without = state.config.model_copy(update={"condition_dropout": 0.0})
    assert make_clips(state.ema, without, turned) == []
