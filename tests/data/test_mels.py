"""Mels that manifests name: they are the recording's, and crops of both are cut on the same frames."""

import json
import math

import numpy as np
import pytest
import torch

from audiodiff.audio.io import load_audio, save_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MEL_CONVENTIONS, DataConfig, MelConfig, RunConfig
from audiodiff.data.corpus import open_corpus
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.dataset import CropDataset, Replica, validation_crops
from audiodiff.data.manifest import probe, read_manifest, write_manifest
from audiodiff.data.mels import amplified, pair_mels, recording_mel
from audiodiff.data.resident import ResidentCorpus, is_resident, resident_bytes
from audiodiff.data.shards import ShardStream, write_shards
from audiodiff.errors import ConfigError, DataError
from audiodiff.training.objective import Objective

CPU = torch.device("cpu")
DATA = DataConfig(train="x", crop_seconds=0.25, resident="off")
CENTRED = {"centre": "frame"}
BLOCKS = {"centre": "frame", "pairing": "frame"}
LOUDER = {"log": "log10", "multiplier": 0.2, "offset": 0.8, "clip": (0.0, 1.0), "power": 2, "window_norm": True}


@pytest.fixture
def pairs(tmp_path, save_voice):
    """Return recordings with their true mels of a convention."""

    def make(config, n=3, sample_rate=8000, seconds=1.3, change=lambda mel: mel):
        recordings = []
        for i in range(n):
            path = save_voice(tmp_path / f"{i}.wav", seconds + 0.31 * i, sample_rate, seed=i)
            mel = MelSpectrogram(config)(load_audio(path, config.sample_rate))[0]
            np.save(path.with_suffix(".npy"), change(mel).numpy())
            recordings.append(probe(path).model_copy(update={"mel": path.with_suffix(".npy")}))
        return recordings

    return make


def model_of(tiny_model_config, **changes):
    return tiny_model_config.model_copy(update={"mel": MelConfig(**(tiny_model_config.mel.model_dump() | changes))})


def prepared(examples, model):
    """Return mels and whitened audio as training meets them: with the mels that were given, and with computed ones."""
    objective = Objective(model, CPU)
    computed = examples._replace(mel=torch.empty(len(examples.audio), 0, 0))
    return objective.prepare(examples), objective.prepare(computed)


def inside(examples, model, reach=4):
    """Return the frames `(batch, frames)` that are not at an end of a recording, where the mel was padded otherwise."""
    context = (examples.mel.shape[-1] - round(0.25 * 8000 / 64 + 0.5)) // 2
    there = ~examples.mel.isnan().any(1)
    window = torch.nn.functional.max_pool1d((~there).float().unsqueeze(1), 2 * reach + 1, 1, reach)[:, 0] == 0
    return window[:, context:-context]


@pytest.mark.parametrize("convention", [{}, CENTRED, BLOCKS, LOUDER])
@pytest.mark.parametrize(("sample_rate", "workers"), [(8000, 0), (11025, 0), (16000, 2)])
def test_true_mels_given_are_those_that_would_be_computed(pairs, tiny_model_config, convention, sample_rate, workers):
    model = model_of(tiny_model_config, **convention)
    data = DATA.model_copy(update={"gain_db": (0.0, 0.0)})
    dataset = CropDataset(pairs(model.mel, sample_rate=sample_rate), CropReader.for_model(model, data), data, 0)
    examples = next(dataset.batches(0, 24, workers))
    given, computed = prepared(examples, model)
    where = inside(examples, model)
    assert where.float().mean() > 0.6
    difference = (given.mel - computed.mel).abs().amax(1)[where]
    assert float(difference.quantile(0.99)) < 2e-3
    assert examples.audio.abs().max() > 0.01


@pytest.mark.parametrize("gain", [0.3, 1.0, -1.6])
@pytest.mark.parametrize("name", [name for name, mel in MEL_CONVENTIONS.items() if not mel.only_given])
def test_a_gain_moves_a_mel_exactly(name, gain):
    config = MEL_CONVENTIONS[name]
    spectrogram = MelSpectrogram(config)
    audio = 0.05 * torch.randn(1, config.sample_rate // 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        amplified(spectrogram(audio), torch.tensor(gain), config), spectrogram(gain * audio), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("name", [name for name, mel in MEL_CONVENTIONS.items() if not mel.only_given])
def test_silence_stays_silence_however_loud(name):
    config = MEL_CONVENTIONS[name]
    silence = MelSpectrogram(config)(torch.zeros(1, config.sample_rate // 4))
    moved = amplified(silence, torch.tensor(1.4), config)
    assert float((moved - silence).abs().max()) <= (0.7 if config.magnitude_floor else 0)
    assert bool(torch.isnan(amplified(torch.full((1, 2, 3), torch.nan), torch.tensor(2.0), config)).all())


def test_beyond_its_mel_a_recording_is_silent_and_its_mel_is_computed(pairs, tiny_model_config):
    (recording,) = pairs(tiny_model_config.mel, 1, seconds=0.15)  # shorter than a crop
    mel = np.load(recording.mel)
    mel = mel[:, :-1]
    np.save(recording.mel, mel)  # two frames fewer than the audio begins
    reader = CropReader.for_model(tiny_model_config, DATA)
    example = reader.read(recording, 0.0)
    first, end = reader.context, reader.context + 64 * mel.shape[1]
    assert not example.audio[:, :first].any()
    assert not example.audio[:, end:].any()
    assert example.audio[:, end - 64 : end].abs().max() > 0
    assert example.mel.shape == (20, example.audio.shape[-1] // 64)
    np.testing.assert_array_equal(example.mel[:, first // 64 : end // 64], mel)
    assert bool(example.mel[:, : first // 64].isnan().all() and example.mel[:, end // 64 :].isnan().all())
    batch = Objective(tiny_model_config, CPU).prepare(Example(*(field.unsqueeze(0) for field in example)))
    assert bool(batch.mel.isfinite().all() and batch.clean.isfinite().all())


@pytest.mark.parametrize("sample_rate", [8000, 16000])
@pytest.mark.parametrize("convention", [{}, CENTRED])
def test_a_resident_corpus_cuts_the_same_mels(pairs, tiny_model_config, save_voice, tmp_path, convention, sample_rate):
    model = model_of(tiny_model_config, **convention)
    recordings = pairs(model.mel, sample_rate=sample_rate)
    recordings.append(probe(save_voice(tmp_path / "without.wav", 1.0, seed=9)))  # its mel is computed
    reader = CropReader.for_model(model, DATA)
    streams = [kind(recordings, reader, DATA, 3) for kind in (CropDataset, ResidentCorpus)]
    n_given = 0
    for step, replica in ((0, Replica()), (5, Replica()), (2, Replica(1, 2))):
        files, memory = (next(stream.batches(step, 8, replica=replica)) for stream in streams)
        assert float((files.audio - memory.audio).abs().max()) < 2e-4
        torch.testing.assert_close(files.mel, memory.mel, atol=1e-5, rtol=0, equal_nan=True)
        n_given += int((~files.mel.isnan()).any(1).any(1).sum())
    assert 0 < n_given < 24
    n_bytes = resident_bytes(recordings, reader, DATA)
    assert n_bytes > resident_bytes([one.model_copy(update={"mel": None}) for one in recordings], reader, DATA)
    assert is_resident(recordings, reader, DATA.model_copy(update={"resident": "on"}), CPU)


def test_each_process_reads_its_part(pairs, tiny_model_config):
    dataset = CropDataset(pairs(tiny_model_config.mel), CropReader.for_model(tiny_model_config, DATA), DATA, 1)
    whole = next(dataset.batches(3, 4))
    halves = [next(dataset.batches(3, 2, replica=Replica(rank, 2))) for rank in (0, 1)]
    torch.testing.assert_close(whole.mel, torch.cat([half.mel for half in halves]), equal_nan=True)


def test_shards_hold_mels(pairs, tiny_model_config, tmp_path):
    recordings = pairs(tiny_model_config.mel)
    recordings[0] = recordings[0].model_copy(update={"mel": None})
    write_shards(recordings, tmp_path / "train.shards.json", 1)
    assert json.loads((tmp_path / "train.shards.json").read_text())["mels"] == 2
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    stream = ShardStream(str(tmp_path / "train.shards.json"), CropReader.for_model(tiny_model_config, DATA), DATA, 0)
    assert stream.has_mels
    examples = next(stream.batches(0, 12))
    without = examples.mel.isnan().all(1).all(1)
    assert 0 < int(without.sum()) < 12
    given, computed = prepared(examples, tiny_model_config)
    difference = (given.mel - computed.mel).abs().amax(1)[inside(examples, tiny_model_config)]
    assert float(difference.quantile(0.98)) < 2e-3
    ignoring = CropReader.for_model(tiny_model_config, DATA.model_copy(update={"given_mels": False}))
    assert not next(ShardStream(stream.index, ignoring, DATA, 0).batches(0, 4)).mel.numel()


def test_a_bad_mel_in_a_shard_is_named(pairs, tiny_model_config, tmp_path):
    recordings = pairs(tiny_model_config.mel, change=lambda mel: mel[:, :9])
    write_shards(recordings, tmp_path / "train.shards.json", 1)
    stream = ShardStream(str(tmp_path / "train.shards.json"), CropReader.for_model(tiny_model_config, DATA), DATA, 0)
    with pytest.raises(DataError, match=r"train-00000\.tar/00000-000000\d\.mel\.npy has 9 frames; "):
        next(stream.batches(0, 2))
    with pytest.raises(DataError, match="does not exist"):
        write_shards([recordings[0].model_copy(update={"mel": tmp_path / "no.npy"})], tmp_path / "x.shards.json", 1)


def test_validation_crops_have_their_mels(pairs, tiny_model_config):
    reader = CropReader.for_model(tiny_model_config, DATA)
    crops = validation_crops(pairs(tiny_model_config.mel, change=lambda mel: mel + 0.5), reader, 4)
    given, computed = prepared(Example(*map(torch.stack, zip(*crops, strict=True))), tiny_model_config)
    assert float((given.mel - computed.mel).median()) == pytest.approx(0.5, abs=1e-3)
    assert not torch.allclose(given.clean, computed.clean, rtol=0.1)  # whitened by what is given


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mel: mel[:, :-3], r"has 17 frames; .*0\.wav of 0\.16 s has 20 in convention 'custom' \(one per 64 sam"),
        (lambda mel: mel.repeat(1, 2), "has 40 frames"),
        (lambda mel: mel[:12, :19], r"shape \(12, 19\); expected"),
        (lambda mel: torch.cat([mel, mel], 1).T, "transposed"),
        (lambda mel: mel * torch.nan, "NaN"),
        (lambda mel: 20 / math.log(10) * mel, "values from -9.* so it is of another one"),
        (lambda mel: mel.long(), "expected floating point"),
    ],
)
def test_what_is_not_the_mel_of_the_recording_is_refused(pairs, tiny_model_config, change, reason):
    (recording,) = pairs(tiny_model_config.mel, 1, seconds=0.16, change=change)
    with pytest.raises(DataError, match=reason) as caught:
        recording_mel(recording, tiny_model_config.mel)
    assert str(recording.mel) in str(caught.value)
    with pytest.raises(DataError, match=reason):
        CropReader.for_model(tiny_model_config, DATA).read(recording, 0.5)


@pytest.mark.parametrize("off", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("convention", [{}, CENTRED])
def test_toolkits_pad_ends_differently(pairs, tiny_model_config, off, convention):
    model = model_of(tiny_model_config, **convention)
    (recording,) = pairs(model.mel, 1, seconds=0.5)
    n_frames = math.ceil(recording.n_samples / 64) + bool(convention)
    np.save(recording.mel, np.full((20, n_frames + off), -3.0))
    assert recording_mel(recording, model.mel).shape == (20, n_frames + off)


def test_the_stated_convention_must_be_the_models(pairs, tiny_model_config):
    recordings = [one.model_copy(update={"mel_convention": "hifigan-22k"}) for one in pairs(tiny_model_config.mel, 1)]
    reader = CropReader.for_model(tiny_model_config, DATA)
    with pytest.raises(DataError, match=r"is a mel of convention 'hifigan-22k'.* the model takes 'custom'"):
        reader.check(recordings)
    with pytest.raises(DataError, match="unknown mel convention 'mine'"):
        reader.check([recordings[0].model_copy(update={"mel_convention": "mine"})])
    CropReader.for_model(tiny_model_config, DATA.model_copy(update={"given_mels": False})).check(recordings)


def config_of(tmp_path, recordings, tiny_run_config, **data):
    write_manifest(tmp_path / "train.jsonl", recordings[:2])
    write_manifest(tmp_path / "valid.jsonl", recordings[2:])
    paths = {"train": str(tmp_path / "train.jsonl"), "valid": str(tmp_path / "valid.jsonl")}
    return RunConfig(
        model=tiny_run_config.model,
        data=DataConfig(**(tiny_run_config.data.model_dump() | paths | data)),
        training=tiny_run_config.training,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": (0.9, 1.1)},
        {"time_reversal": True},
        {"peak_db": -1.0},
        {"fade_seconds": (0.01, 0.0)},
        {"transforms": [{"name": "Gain"}]},
    ],
)
def test_augmentations_that_a_mel_cannot_follow_are_refused(pairs, tiny_run_config, tmp_path, changes):
    recordings = pairs(tiny_run_config.model.mel)
    with pytest.raises(ConfigError, match=f"^data.{next(iter(changes))} would change the recordings"):
        open_corpus(config_of(tmp_path, recordings, tiny_run_config, **changes))
    if "transforms" not in changes:
        open_corpus(config_of(tmp_path, recordings, tiny_run_config, given_mels=False, **changes))


def test_a_mel_that_is_not_there_is_named(pairs, tiny_run_config, tmp_path):
    recordings = pairs(tiny_run_config.model.mel)
    recordings[0].mel.unlink()
    with pytest.raises(DataError, match=r"or its validation list names are not there: .*0\.npy\. Restore"):
        open_corpus(config_of(tmp_path, recordings, tiny_run_config))
    open_corpus(config_of(tmp_path, recordings, tiny_run_config, given_mels=False))


def test_mels_are_paired_by_name(pairs, tiny_model_config, tmp_path, save_voice):
    recordings = pairs(tiny_model_config.mel)
    named = {one.audio.relative_to(tmp_path): one for one in recordings}
    (tmp_path / "9.npy").write_bytes((tmp_path / "0.npy").read_bytes())
    (tmp_path / "1.npy").unlink()
    pairing = pair_mels(named, tmp_path, "hifigan-22k")
    assert [one.mel.name for one in pairing.recordings] == ["0.npy", "2.npy"]
    assert {one.mel_convention for one in pairing.recordings} == {"hifigan-22k"}
    assert ([one.audio.name for one in pairing.without], [path.name for path in pairing.left_over]) == (
        ["1.wav"],
        ["9.npy"],
    )
    torch.save(torch.zeros(1), tmp_path / "2.pt")
    with pytest.raises(DataError, match=r"2\.npy and 2\.pt have the same name"):
        pair_mels(named, tmp_path, "hifigan-22k")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no recording has a mel of its name"):
        pair_mels(named, tmp_path / "empty", "hifigan-22k")


def test_mels_are_kept_by_manifests(pairs, tiny_model_config, tmp_path):
    recordings = pairs(tiny_model_config.mel)
    write_manifest(tmp_path / "lists" / "all.jsonl", recordings)
    assert [one.mel.resolve() for one in read_manifest(tmp_path / "lists" / "all.jsonl")] == [
        one.mel.resolve() for one in recordings
    ]


def test_a_sound_file_next_to_it_is_no_mel(pairs, tiny_model_config, tmp_path):
    (recording,) = pairs(tiny_model_config.mel, 1)
    save_audio(tmp_path / "x.wav", torch.zeros(1, 800), 8000)
    (tmp_path / "x.wav").rename(tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"x\.npy"):
        recording_mel(recording.model_copy(update={"mel": tmp_path / "x.npy"}), tiny_model_config.mel)
