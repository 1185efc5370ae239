"""Example number n is always the same: across runs, workers and the step a run is resumed at."""

import logging
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.config import DataConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset, validation_crops
from audiodiff.data.manifest import Recording, scan_folder
from audiodiff.errors import AudioError, DataError

READER = CropReader(8000, 640)
DATA = DataConfig(train="x")


@pytest.fixture(scope="module")
def recordings(speech_folder):
    return scan_folder(speech_folder).recordings


@pytest.fixture
def counting(tmp_path):
    """Two recordings whose samples tell recording and place; the second is three times as long."""
    for name, first, n_samples in (("a", 0.0, 4000), ("b", 0.5, 12000)):
        samples = first + np.arange(n_samples) / 2**15
        soundfile.write(tmp_path / f"{name}.wav", samples, 8000, subtype="FLOAT")
    return scan_folder(tmp_path).recordings


def stream(recordings, seed=0, **options):
    return CropDataset(recordings, READER, DATA.model_copy(update=options), seed)


def take(recordings, n_batches, start_step=0, workers=0, seed=0):
    return list(islice(stream(recordings, seed).batches(start_step, 4, workers), n_batches))


def same(left, right):
    return all(
        torch.equal(a, b) for ours, theirs in zip(left, right, strict=True) for a, b in zip(ours, theirs, strict=True)
    )


def test_shapes(recordings):
    (batch,) = take(recordings, 1)
    assert [(tuple(field.shape), field.dtype) for field in batch] == [
        ((4, 1, 640), torch.float32),
        ((4,), torch.int64),
        ((4,), torch.float32),
        ((4,), torch.int64),
        ((4, 0), torch.float32),
        ((4, 0, 0), torch.float32),
    ]


def test_a_resumed_stream_goes_on_where_it_was(recordings):
    assert same(take(recordings, 5)[2:], take(recordings, 3, start_step=2))


def test_workers_change_nothing(recordings):
    assert same(take(recordings, 5, start_step=1), take(recordings, 5, start_step=1, workers=2))


def test_examples_differ_and_so_do_seeds(recordings):
    data, other = stream(recordings), stream(recordings, seed=1)
    assert not any(torch.equal(data[i].example.audio, data[j].example.audio) for i in range(8) for j in range(i))
    assert not any(torch.equal(data[i].example.audio, other[i].example.audio) for i in range(8))


def test_a_stream_touches_no_global_randomness(recordings):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    take(recordings, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state


def test_every_second_is_equally_likely(counting):
    data = stream(counting, polarity=False, gain_db=(0, 0))
    firsts = np.array([float(data[i].example.audio[0, 0]) for i in range(1000)])
    from_b = firsts >= 0.5
    assert abs(from_b.sum() - 750) < 3 * np.sqrt(1000 * 0.75 * 0.25)
    places = (firsts[from_b] - 0.5) * 2**15 / (12000 - 640)
    assert np.allclose(np.quantile(places, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.06)


def test_every_one_shot_is_equally_likely(counting):
    reader = CropReader(8000, 640, one_shots=True)
    plain = DATA.model_copy(update={"polarity": False, "gain_db": (0.0, 0.0)})
    data = CropDataset(counting, reader, plain, 0)
    firsts = np.array([float(data[i].example.audio[0, 0]) for i in range(1000)])
    assert set(firsts) == {0.0, 0.5}
    assert abs((firsts == 0.5).sum() - 500) < 3 * np.sqrt(1000) / 2
    assert [float(crop.audio[0, 0]) for crop in validation_crops(counting, reader, 4)] == [0.0, 0.0, 0.5, 0.5]
    assert data.seconds == 2.0


def test_crops_are_played_at_speeds_of_the_range_alone(counting):
    rising = stream(counting, polarity=False, gain_db=(0.0, 0.0), speed=(0.5, 2.0))
    crops = [rising[i].example.audio[0, 200:400] for i in range(300)]  # far from the ends, where a ramp rises evenly
    speeds = np.array([float(crop.diff().mean()) * 2**15 for crop in crops])
    assert np.allclose(np.quantile(speeds, [0, 0.5, 1]), [0.5, 1, 2], atol=0.06)


@pytest.mark.parametrize("option", [{"polarity": False}, {"gain_db": (0.0, 0.0)}, {"speed": (0.8, 1.25)}])
def test_each_augmentation_changes_training_but_not_validation(recordings, option):
    plain, changed = stream(recordings), stream(recordings, **option)
    assert not all(torch.equal(plain[i].example.audio, changed[i].example.audio) for i in range(8))
    crops = validation_crops(recordings, READER, 8)
    unaugmented = stream(recordings, polarity=False, gain_db=(0.0, 0.0))
    assert all(float(crop.audio.abs().max()) <= 0.5001 for crop in crops)
    assert {tuple(crop.audio.shape) for crop in crops} == {tuple(unaugmented[0].example.audio.shape)}


def test_validation_crops_are_fixed_and_spread_evenly(counting):
    crops = validation_crops(counting, READER, 8)
    assert same(crops, validation_crops(counting, READER, 8))
    firsts = [float(crop.audio[0, 0]) for crop in crops]
    assert sum(first < 0.5 for first in firsts) == 2
    assert firsts == sorted(firsts)
    assert len(set(firsts)) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_through_as_it_was(recordings, tmp_path, workers):
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    broken = [recordings[0].model_copy(update={"audio": bad})]
    with pytest.raises(AudioError, match=rf"^{bad} cannot be read"):
        take(broken, 1, workers=workers)


def test_unusable_recordings_are_refused_at_once(recordings):
    reader = CropReader(16000, 640, resample=False)
    with pytest.raises(DataError, match="is 8000 Hz; this model needs 16000 Hz"):
        CropDataset(recordings, reader, DATA, 0)
    with pytest.raises(DataError, match="is 8000 Hz; this model needs 16000 Hz"):
        validation_crops(recordings, reader, 1)


def test_padding_is_logged_once(recordings, caplog):
    with caplog.at_level(logging.WARNING):
        data = CropDataset(recordings, CropReader(8000, 12000), DATA, 0)
        for i in range(8):
            assert data[i].example.audio.shape == (1, 12000)
    assert len(caplog.records) == 1


def test_long_and_short_recordings_are_found_at_every_place():
    many = [Recording(audio=f"{i}.wav", seconds=0.1 + i % 3, sample_rate=8000) for i in range(50)]
    data = CropDataset(many, READER, DATA, seed=-3)
    assert data._ends[-1] == pytest.approx(sum(recording.seconds for recording in many))
