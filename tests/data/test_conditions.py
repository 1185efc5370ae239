"""Speakers and vectors come from manifests; what does not fit the model is refused by name."""

import json

import numpy as np
import pytest
import torch

from audiodiff.config import DataConfig, ModelConfig, NetworkConfig
from audiodiff.data.conditions import load_vector
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset
from audiodiff.data.manifest import read_manifest, scan_folder, write_manifest
from audiodiff.data.shards import ShardStream, write_shards
from audiodiff.errors import DataError

PLAIN = DataConfig(train="x", polarity=False, gain_db=(0, 0), crop_seconds=0.05)
READER = CropReader(8000, 400, speakers=("ann", "bob"), vector_width=2)


@pytest.fixture
def recordings(tmp_path, save_voice):
    """Give three recordings: of ann with a file, of bob with numbers, of nobody with nothing."""
    for i in range(3):
        save_voice(tmp_path / f"{i}.wav", 0.2, seed=i)
    np.save(tmp_path / "0.npy", np.array([1.5, -2.0]))
    first, second, third = scan_folder(tmp_path).recordings
    return [
        first.model_copy(update={"speaker": "ann", "vector": tmp_path / "0.npy"}),
        second.model_copy(update={"speaker": "bob", "vector": (3.0, 4.0)}),
        third,
    ]


def test_they_survive_a_manifest(recordings, tmp_path):
    write_manifest(tmp_path / "lists" / "train.jsonl", recordings)
    lines = [json.loads(line) for line in (tmp_path / "lists" / "train.jsonl").read_text().splitlines()]
    assert [line.get("vector") for line in lines] == ["../0.npy", [3.0, 4.0], None]
    found = read_manifest(tmp_path / "lists" / "train.jsonl")
    assert found[0].vector.resolve() == tmp_path / "0.npy"
    assert [recording.vector for recording in found[1:]] == [(3.0, 4.0), None]


def test_examples_hold_them(recordings):
    READER.check(recordings)
    examples = [READER.read(recording, 0.5) for recording in recordings]
    assert [int(example.speaker) for example in examples] == [0, 1, 2]
    assert examples[0].vector.tolist() == [1.5, -2.0]
    assert examples[1].vector.tolist() == [3.0, 4.0]
    assert examples[2].vector.isnan().tolist() == [True, True]
    batch = next(CropDataset(recordings, READER, PLAIN, 0).batches(0, 8))
    assert (batch.speaker.shape, batch.vector.shape) == ((8,), (8, 2))


def test_a_model_without_ignores_them(recordings):
    reader = CropReader(8000, 400)
    reader.check(recordings)
    example = reader.read(recordings[0].model_copy(update={"vector": "nowhere.npy"}), 0)
    assert int(example.speaker) == 0
    assert example.vector.shape == (0,)


def test_they_travel_in_shards(recordings, tmp_path):
    write_shards(recordings, tmp_path / "train.shards.json", 1)
    (tmp_path / "0.npy").unlink()
    batch = next(ShardStream(str(tmp_path / "train.shards.json"), READER, PLAIN, 0).batches(0, 12))
    seen = {(int(speaker), str(vector.tolist())) for speaker, vector in zip(batch.speaker, batch.vector, strict=True)}
    assert seen == {(0, "[1.5, -2.0]"), (1, "[3.0, 4.0]"), (2, "[nan, nan]")}


def test_the_reader_of_a_model_reads_what_it_takes():
    config = ModelConfig(sample_rate=8000, speakers=("a",), vector_width=7, network=NetworkConfig(patch=8))
    reader = CropReader.for_model(config, PLAIN)
    assert (reader.speakers, reader.vector_width) == (("a",), 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker": "eve"}, "has speaker 'eve', which is not one of the model's speakers: ann, bob"),
        ({"vector": (1.0, 2.0, 3.0)}, r"has shape \(3,\) .* the model takes 2 numbers"),
        ({"vector": (1.0, np.inf)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(recordings, changes, message):
    with pytest.raises(DataError, match=message):
        READER.check([*recordings, recordings[0].model_copy(update=changes)])


@pytest.mark.parametrize("name", ["speaker", "vector"])
def test_a_condition_that_no_recording_has_is_refused(recordings, name):
    with pytest.raises(DataError, match=f"none of 3 recordings has one. Give each line of the manifest a `{name}`"):
        READER.check([recording.model_copy(update={name: None}) for recording in recordings])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), "takes 2 numbers"),
        (np.array([1.0, np.nan]), "not finite"),
        (np.array(["a", "b"]), "takes 2 numbers"),
        (None, "cannot be read as a .npy file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(recordings, tmp_path, content, message):
    (tmp_path / "bad.npy").write_bytes(b"no numbers")
    if content is not None:
        np.save(tmp_path / "bad.npy", content)
    with pytest.raises(DataError, match=message):
        READER.read(recordings[0].model_copy(update={"vector": tmp_path / "bad.npy"}), 0)


def test_rows_and_whole_numbers_are_vectors_too(recordings, tmp_path):
    np.save(tmp_path / "row.npy", np.array([[1, 2]]))
    example = READER.read(recordings[0].model_copy(update={"vector": tmp_path / "row.npy"}), 0)
    assert torch.equal(example.vector, torch.tensor([1.0, 2.0]))


def test_files_that_are_no_vector_are_named(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.float32(3))
    assert load_vector(path).tolist() == [3.0]
    with path.open("wb") as file:
        np.savez(file, np.zeros(3))
    with pytest.raises(DataError, match="it holds a NpzFile. Write it with numpy.save"):
        load_vector(path)
    np.save(path, np.zeros(3))
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:20],
        whole.replace(b"(3,), }" + b" " * 15, b"(3000000000000000,), }"),
        b"\x93NUMPY\1\0\5\0{{{{{",
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="v.npy cannot be read as a .npy file of numbers"):
            load_vector(path)
