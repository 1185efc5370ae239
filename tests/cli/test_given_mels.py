"""Mels that a text-to-speech model predicted, from `prepare --mels` to training and `vocode manifest.jsonl`."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.checkpoint import load_model
from audiodiff.cli.main import main
from audiodiff.config import RunConfig, mel_convention
from audiodiff.data.crops import CropReader
from audiodiff.data.manifest import read_manifest, write_manifest
from audiodiff.pipelines import Vocoder
from audiodiff.training.trainer import train
from audiodiff.training.validation import choose_samples, make_clips

CONVENTION = "hifigan-22k@8000"


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def corpus(tmp_path, save_voice):
    """Write recordings in subfolders, and mels of the same names that are 1 too high."""
    spectrogram = MelSpectrogram(mel_convention(CONVENTION))
    for i, name in enumerate(("a/x", "a/y", "b/x", "z")):
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_voice(path, 0.7 + 0.1 * i, 8000, seed=i)
        (tmp_path / "mels" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "mels" / f"{name}.npy", spectrogram(load_audio(path))[0].numpy() + 1)
    return tmp_path


def prepare(corpus, *options):
    return run(
        *("prepare", corpus / "audio", corpus / "lists", "--mels", corpus / "mels", "--mel-convention", CONVENTION),
        *options,
    )


def listed(corpus):
    return [one for part in ("train", "valid", "test") for one in read_manifest(corpus / "lists" / f"{part}.jsonl")]


def test_folders_of_mels_and_audio_are_paired(corpus):
    result = prepare(corpus)
    assert (result.exit_code, result.stderr) == (0, "")
    found = {
        one.audio.resolve().relative_to(corpus / "audio"): one.mel.resolve().relative_to(corpus / "mels")
        for one in listed(corpus)
    }
    assert {str(audio.with_suffix(".npy")) for audio in found} == {str(mel) for mel in found.values()}
    assert len(found) == 4
    assert {one.mel_convention for one in listed(corpus)} == {CONVENTION}
    assert run("doctor", corpus / "lists", "--crop-seconds", 0.1).exit_code == 0


def test_what_has_no_partner_is_said(corpus):
    (corpus / "mels" / "a" / "y.npy").unlink()
    (corpus / "mels" / "other.npy").write_bytes((corpus / "mels" / "z.npy").read_bytes())
    result = prepare(corpus)
    assert result.exit_code == 0
    assert f"1 recordings are left out, without a mel in {corpus / 'mels'} ({corpus}/audio/a/y.wav)" in result.stderr
    assert f"1 mels have no recording in {corpus / 'audio'} ({corpus}/mels/other.npy)" in result.stderr
    assert len(listed(corpus)) == 3
    result = run("prepare", corpus / "audio", corpus / "lists", "--mels", corpus / "lists")
    assert result.exit_code == 1
    assert f"looked for {corpus / 'lists' / 'a' / 'x.npy'}" in result.stderr
    assert run("prepare", corpus / "audio", corpus / "lists", "--mel-convention", CONVENTION).exit_code == 2


def test_a_mel_that_does_not_fit_is_left_out_and_named(corpus):
    mel = np.load(corpus / "mels" / "z.npy")
    np.save(corpus / "mels" / "z.npy", mel[:, :-5])
    np.save(corpus / "mels" / "a" / "x.npy", np.load(corpus / "mels" / "a" / "x.npy").T)
    result = prepare(corpus, "--test-fraction", 0)
    assert result.exit_code == 1
    assert re.search(rf"left out: \S*z\.npy has {mel.shape[1] - 5} frames; \S*z\.wav of 1\.00 s has ", result.stderr)
    assert re.search(r"left out: \S*x\.npy: mel has shape .*, which is transposed", result.stderr)
    assert "2 of 4 files could not be used" in result.stderr
    assert len(listed(corpus)) == 2
    assert run("prepare", corpus / "audio", corpus / "other", "--mels", corpus / "mels").exit_code == 1  # of 22,050 Hz


def test_doctor_checks_mels(corpus):
    prepare(corpus)
    recordings = listed(corpus)
    np.save(recordings[0].mel, np.load(recordings[0].mel)[:, :-5])
    recordings[1] = recordings[1].model_copy(update={"mel": None})
    write_manifest(corpus / "all" / "train.jsonl", recordings)
    result = run("doctor", corpus / "all", "--json")
    findings = {one["check"]: one for one in json.loads(result.stdout)["findings"]}
    assert result.exit_code == 1
    assert findings["mels"]["is_error"]
    assert findings["mels"]["found"].startswith("1 mels do not fit their recording or convention; the first: ")
    assert "1 of 4 recordings have no mel" in findings["some mels"]["found"]


@pytest.fixture
def config(corpus, tiny_run_config):
    prepare(corpus, "--valid-fraction", 0.3, "--test-fraction", 0)
    lists = {"train": str(corpus / "lists" / "train.jsonl"), "valid": str(corpus / "lists" / "valid.jsonl")}
    mel = mel_convention(CONVENTION)
    network = tiny_run_config.model.network.model_copy(
        update={"hop_length": mel.hop_length, "n_fft": 4 * mel.hop_length}
    )
    return RunConfig(
        model=tiny_run_config.model.model_copy(update={"mel": mel, "network": network}),
        data=tiny_run_config.data.model_copy(update=lists | {"resident": "off"}),
        training=tiny_run_config.training.model_copy(update={"few_step_weight": 1.0}),
    )


def weights(config, folder, steps=8, **data):
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "training": config.training.model_copy(update={"steps": steps}),
        }
    )
    train(config, folder, allow_changes=True)
    return load_model(folder / "last")[0].state_dict()


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_training_takes_them_unless_told_otherwise(config, tmp_path):
    given = weights(config, tmp_path / "given")
    assert not equal(given, weights(config, tmp_path / "computed", given_mels=False))
    assert not equal(given, weights(config, tmp_path / "noisy", mel_noise_db=3.0))
    assert equal(given, weights(config, tmp_path / "workers", workers=2))


def test_a_stopped_run_resumes_bit_identically(config, tmp_path):
    whole = weights(config, tmp_path / "whole")
    folder = tmp_path / "run"
    weights(config, folder)
    for path in (folder / "checkpoints").glob("step-00000008*"):
        path.rename(tmp_path / "gone")
    assert equal(whole, weights(config, folder))


def test_a_dry_run_reads_all_mels(config, corpus):
    (corpus / "run.yaml").write_text(config.model_dump_json())
    assert run("train", corpus / "run.yaml", "--dry-run").exit_code == 0
    mel = read_manifest(corpus / "lists" / "valid.jsonl")[0].mel
    np.save(mel, np.load(mel)[:, 9:])
    result = run("train", corpus / "run.yaml", "--dry-run")
    assert result.exit_code == 1
    assert "1 mels cannot be used; the first: " in result.stderr


def test_samples_of_training_are_vocoded_from_given_mels(config, corpus, save_random_model, tmp_path):
    folder = save_random_model(tmp_path / "model", config.model)
    network, model = load_model(folder)
    recordings = read_manifest(corpus / "lists" / "train.jsonl")[:1]
    reader = CropReader.for_model(config.model, config.data)
    (sample,) = choose_samples(recordings, reader, model.hop_length)
    (clip,) = make_clips(network, model, [sample])
    n_frames = sample.audio.shape[-1] // model.hop_length
    expected = Vocoder(network, model)(np.load(recordings[0].mel)[:, :n_frames])
    torch.testing.assert_close(torch.as_tensor(clip.generated[0]), torch.as_tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [8000, 11025])
def test_a_manifest_with_mels_has_these_vocoded(corpus, config, save_random_model, save_voice, rate):
    model = save_random_model(corpus / "model", config.model)
    recording = read_manifest(corpus / "lists" / "train.jsonl")[0]
    if rate != 8000:
        soundfile.write(recording.audio, load_audio(recording.audio, rate)[0].numpy(), rate)
        n_samples = soundfile.info(recording.audio).frames
        recording = recording.model_copy(update={"sample_rate": rate, "n_samples": n_samples})
    write_manifest(corpus / "one.jsonl", [recording])
    out = corpus / "wavs"
    result = run(
        *("vocode", corpus / "one.jsonl", "--model", model, "--output", out, "--score", "--resample", "--dtype", "fp32")
    )
    assert result.exit_code == 0, result.stderr
    assert "M-STFT" in result.stdout
    expected = Vocoder.from_pretrained(model, "cpu")(np.load(recording.mel))
    made = load_audio(out / f"{recording.audio.stem}.wav")[0]
    torch.testing.assert_close(torch.as_tensor(made), torch.as_tensor(expected), atol=1e-4, rtol=0)
    from_mel = run("vocode", recording.mel, "--model", model, "--output", corpus / "m.wav", "--dtype", "fp32")
    assert from_mel.exit_code == 0
    assert torch.equal(load_audio(corpus / "m.wav")[0], made)
    np.save(recording.mel, np.load(recording.mel)[:, :-4])
    result = run("vocode", corpus / "one.jsonl", "--model", model, "--output", out, "--overwrite")
    assert result.exit_code == 1
    assert "frames; " in result.stderr
