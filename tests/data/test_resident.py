"""Crops cut from memory are those that are read from files, in the same order, to the rounding of 16 bits."""

from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
import yaml

from audiodiff.config import DataConfig, RunConfig, TransformConfig
from audiodiff.data import resident
from audiodiff.data.corpus import open_corpus
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset, Replica
from audiodiff.data.manifest import scan_folder, write_manifest
from audiodiff.data.resident import ResidentCorpus, is_resident, resident_bytes
from audiodiff.errors import AudioError, ConfigError, DataError

READER = CropReader(8000, 640, 64)
DATA = DataConfig(train="x")
ROUNDING = 1.5 * 2**-16  # half a step, at the largest gain, and some for the filter


@pytest.fixture
def recordings(tmp_path):
    """Recordings of two lengths at three rates, one shorter than a crop, one with two channels, one at 24 bits."""
    generator = np.random.default_rng(0)
    for name, n_samples, rate, shape, subtype in (
        ("a", 4000, 8000, (), "PCM_16"),
        ("b", 300, 8000, (), "PCM_16"),
        ("c", 9001, 16000, (), "PCM_24"),
        ("d", 7000, 11025, (2,), "PCM_16"),
    ):
        samples = 0.2 * generator.standard_normal((n_samples, *shape))
        soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype=subtype)
    return scan_folder(tmp_path).recordings


def both(recordings, reader=READER, n_batches=6, start_step=0, replica=None, **options):
    data = DATA.model_copy(update=options)
    how = {"replica": replica} if replica else {}
    streams = (CropDataset(recordings, reader, data, 3), ResidentCorpus(recordings, reader, data, 3))
    return [list(islice(stream.batches(start_step, 8, **how), n_batches)) for stream in streams]


def difference(left, right):
    for ours, theirs in zip(left, right, strict=True):
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    return max(float((a.audio - b.audio).abs().max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"gain_db": (0, 0), "polarity": False}, {"time_reversal": True}, {"speed": (0.9, 1.2)}, {"speed": (1.1, 1.1)}],
)
def test_examples_are_those_read_from_files(recordings, options):
    assert difference(*both(recordings, **options)) < ROUNDING


def test_what_16_bits_hold_stays_as_it_is(recordings):
    assert difference(*both(recordings[:2])) == 0


def test_one_shots_begin_where_they_begin(recordings):
    reader = CropReader(8000, 640, 64, one_shots=True)
    assert difference(*both(recordings, reader)) < ROUNDING


def test_crops_are_faded_and_brought_to_a_peak(recordings):
    reader = CropReader(8000, 640, 64, peak_db=-3.0, fade=(20, 100))
    assert difference(*both(recordings, reader, speed=(0.9, 1.2), time_reversal=True)) < 4 * ROUNDING  # short ones grow


def test_a_resumed_stream_goes_on_where_it_was(recordings):
    (_, through), (_, later) = both(recordings), both(recordings, start_step=3, n_batches=3)
    assert difference(through[3:], later) == 0


def test_each_process_reads_its_part(recordings):
    assert difference(*both(recordings, replica=Replica(1, 3))) < ROUNDING


def test_conditions_and_bands_go_with_the_audio(recordings, tmp_path):
    reader = CropReader(8000, 640, 64, ("x", "y"), vector_width=2)
    for i, recording in enumerate(recordings):
        update = {
            "label": "xy"[i % 2],
            "bandwidth": 3000.0 if i else None,
            "vector": (float(i), 1.0) if i > 1 else None,
        }
        recordings[i] = recording.model_copy(update=update)
    assert difference(*both(recordings, reader, speed=(0.9, 1.2))) < ROUNDING


def test_louder_than_full_scale_is_not_clipped(tmp_path):
    samples = 3.0 * np.sin(np.arange(4000) / 7)
    soundfile.write(tmp_path / "x.wav", samples, 8000, subtype="FLOAT")
    files, memory = both(scan_folder(tmp_path).recordings, gain_db=(0, 0), polarity=False)
    assert max(float(batch.audio.max()) for batch in memory) > 2.9
    assert difference(files, memory) < 3 * ROUNDING


def test_a_recording_that_is_listed_twice_is_held_once(recordings):
    once, twice = (ResidentCorpus(listed, READER, DATA, 0) for listed in (recordings, recordings + recordings[:1]))
    assert len(once._samples) == len(twice._samples)
    assert difference(*both(recordings + recordings[:1])) < ROUNDING


def test_unreadable_recordings_are_replaced_as_when_files_are_read(recordings):
    recordings[2].audio.write_bytes(b"no audio")
    told = []
    for kind in (CropDataset, ResidentCorpus):
        failures = []
        batches = list(islice(kind(recordings, READER, DATA, 3).batches(0, 8, on_failure=failures.append), 6))
        told.append((failures, batches))
    (left, files), (right, memory) = told
    assert [(f.path, str(f.error)) for f in left] == [(f.path, str(f.error)) for f in right] != []
    assert difference(files, memory) < ROUNDING
    with pytest.raises(AudioError, match=r"c\.wav cannot be read"):
        list(islice(ResidentCorpus(recordings, READER, DATA, 3).batches(0, 8), 6))


def test_nothing_readable_is_an_error(recordings):
    for recording in recordings:
        recording.audio.write_bytes(b"no audio")
    with pytest.raises((DataError, AudioError), match="cannot be read|nothing can be read"):
        next(ResidentCorpus(recordings, READER, DATA, 0).batches(0, 4))


def test_auto_looks_at_the_memory(recordings, monkeypatch):
    needed = resident_bytes(recordings, READER, DATA)
    assert needed == pytest.approx(2 * 8000 * sum(recording.seconds for recording in recordings), abs=1)
    for free, expected in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(resident, "_memory", lambda _, free=free: (4 * free, free))
        assert is_resident(recordings, READER, DATA, torch.device("cpu")) is expected
        assert is_resident(recordings, READER, DATA.model_copy(update={"resident": "on"}), torch.device("cpu"))
        assert not is_resident(recordings, READER, DATA.model_copy(update={"resident": "off"}), torch.device("cpu"))
    wide = DATA.model_copy(update={"speed": (0.8, 1.25)})
    assert resident_bytes(recordings, READER, wide) > 20 * needed
    monkeypatch.setattr(resident, "_memory", lambda _: (needed - 1, 0))
    with pytest.raises(ConfigError, match="the corpus takes"):
        is_resident(recordings, READER, DATA.model_copy(update={"resident": "on"}), torch.device("cpu"))


def test_transforms_need_files(recordings):
    data = DATA.model_copy(update={"transforms": (TransformConfig(name="Gain"),)})
    assert not is_resident(recordings, READER, data, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"data\.transforms run on the CPU"):
        is_resident(recordings, READER, data.model_copy(update={"resident": "on"}), torch.device("cpu"))


@pytest.mark.parametrize(("choice", "kind"), [("on", ResidentCorpus), ("off", CropDataset), ("auto", ResidentCorpus)])
def test_the_configuration_decides(recordings, tmp_path, tiny_model_config, choice, kind):
    write_manifest(tmp_path / "train.jsonl", recordings[:3])
    write_manifest(tmp_path / "valid.jsonl", recordings[3:])
    data = DataConfig(train=str(tmp_path / "train.jsonl"), valid=str(tmp_path / "valid.jsonl"), resident=choice)
    assert type(open_corpus(RunConfig(model=tiny_model_config, data=data)).training) is kind


@pytest.mark.parametrize("choice", ["on", "off", "auto"])
def test_the_choice_may_be_written_as_in_yaml(choice):
    assert DataConfig(train="x", resident=yaml.safe_load(choice)).resident == choice


def test_shards_are_streamed(tmp_path, tiny_model_config):
    data = DataConfig(train=str(tmp_path / "train.shards.json"), valid="x", resident="on")
    with pytest.raises(ConfigError, match="an index of shards, which are streamed"):
        open_corpus(RunConfig(model=tiny_model_config, data=data))
