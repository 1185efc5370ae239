"""A classifier learns to tell sounds apart, and sets are judged by it; music is told by its notes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.errors import DataError, ModelError
from audiodiff.evaluation.classifier import (
    add_noise,
    load_classifier,
    mask,
    mixup,
    save_classifier,
    stretch,
    train_classifier,
)
from audiodiff.evaluation.listing import hold_out, list_labelled
from audiodiff.evaluation.set_metrics import compare_music, measure_music
from audiodiff.evaluation.sets import SetOptions, evaluate_sets

RATE = 8000
KINDS = ("hiss", "tone")


def sound(kind: str, seed: int, seconds: float = 0.25) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * random.uniform(300, 900) * time)
    return 0.1 * (
        tone + 0.05 * random.standard_normal(len(time)) if kind == "tone" else random.standard_normal(len(time))
    )


def save_set(folder: Path, n: int, first: int = 0, kinds=KINDS) -> Path:
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + n):
            soundfile.write(folder / kind / f"{seed}.wav", sound(kind, seed), RATE)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return save_set(tmp_path_factory.mktemp("corpus"), 30)


@pytest.fixture(scope="module")
def classifier(corpus):
    return train_classifier(corpus, epochs=25, min_updates=50)


def test_it_learns_and_says_how_well(classifier, corpus):
    assert classifier.config.labels == KINDS
    assert (classifier.config.sample_rate, classifier.config.n_samples) == (RATE, RATE // 4)
    assert classifier.config.accuracy > 0.8


def test_it_is_made_by_its_seed_and_updates(corpus):
    short = {"epochs": 1, "min_updates": 1}
    first, again = (train_classifier(corpus, **short).output.weight for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, train_classifier(corpus, **short, seed=1).output.weight)
    assert not torch.equal(first, train_classifier(corpus, epochs=1, min_updates=3).output.weight)
    assert not torch.equal(first, train_classifier(corpus, epochs=2, min_updates=1).output.weight)
    assert not torch.equal(first, train_classifier(corpus, **short, augment=False).output.weight)


def test_it_is_measured_on_what_it_was_not_trained_on(corpus, tmp_path):
    short = {"epochs": 1, "min_updates": 1}
    assert train_classifier(corpus, **short).config.measured_on == "6 clips, every tenth held out"
    fresh = save_set(tmp_path / "fresh", 12, first=500)
    given = train_classifier(corpus, held_out=fresh, **short)
    assert given.config.measured_on == "24 clips, those of fresh"
    assert not torch.equal(given.output.weight, train_classifier(corpus, **short).output.weight)  # all clips were used
    both = train_classifier([corpus, fresh], **short)
    assert both.config.measured_on == "8 clips, every tenth held out"
    with pytest.raises(DataError, match="60 clips of .* are among those to train on"):
        train_classifier(corpus, held_out=corpus, **short)
    with pytest.raises(DataError, match="12 held-out clips have none of the labels hiss, tone"):
        train_classifier(corpus, held_out=save_set(tmp_path / "other", 12, kinds=("crash",)), **short)


def test_speakers_are_held_out_whole_where_a_manifest_knows_enough_of_them(corpus, tmp_path):
    files = sorted(corpus.rglob("*.wav"))
    recordings = [
        Recording(audio=f, seconds=0.25, sample_rate=RATE, label=f.parent.name, speaker=f"s{int(f.stem) % 15}")
        for f in files
    ]
    write_manifest(tmp_path / "list.jsonl", recordings)
    chosen, how = hold_out({tmp_path / "list.jsonl": list_labelled(tmp_path / "list.jsonl")})
    assert how == "their speakers held out"
    held_out = {int(path.stem) % 15 for path, _ in chosen}
    assert 1 <= len(held_out) < 15
    assert len(chosen) == 4 * len(held_out)  # two clips of each kind


def test_variations_keep_what_they_should():
    torch.manual_seed(0)
    mels = torch.randn(64, 40, 50) - 3
    assert torch.allclose(stretch(mels)[..., 0, :].std(), mels[:, 0].std(), atol=0.2)  # the lowest band stays lowest
    assert not torch.equal(stretch(mels), mels)
    noisy = add_noise(mels)
    assert bool((noisy >= mels - 1e-4).all())
    assert 0.2 < float((noisy == mels).all(2).all(1).float().mean()) < 0.8
    masked = mask(mels) != mels
    assert float(masked.float().mean()) < 0.6
    assert bool(masked.any(2).any(1).float().mean() > 0.9)
    mixed = mixup(mels)
    assert bool(((mixed.weights >= 0.5) & (mixed.weights <= 1)).all())
    own = mixed.weights.view(-1, 1, 1)
    assert torch.allclose(mixed.mels, own * mels + (1 - own) * mels[mixed.partners])


def test_it_is_read_as_it_was_written(classifier, corpus, tmp_path):
    save_classifier(tmp_path / "deep" / "c.safetensors", classifier)
    read = load_classifier(tmp_path / "deep" / "c.safetensors")
    assert read.config == classifier.config
    mels = read.read([corpus / "tone" / "0.wav"])
    assert np.array_equal(read.classify(mels).probabilities, classifier.classify(mels).probabilities)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is no classifier"):
        load_classifier(tmp_path / "no.safetensors")


def test_level_length_and_rate_do_not_matter(classifier, tmp_path):
    long = sound("tone", 99, 0.5)
    soundfile.write(tmp_path / "quiet.wav", 0.1 * long, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", long[:1500], RATE)
    soundfile.write(tmp_path / "fast.wav", np.repeat(long, 2), 2 * RATE)
    files = [tmp_path / name for name in ("quiet.wav", "short.wav", "fast.wav")]
    assert classifier.classify(classifier.read(files)).probabilities.argmax(1).tolist() == [1, 1, 1]


def test_labels_come_from_folders_names_and_manifests(tmp_path, save_voice):
    for name in ("a/yes/1.wav", "b/7_jackson_3.wav", "b/8_jackson_0.wav", "c/yes_12.wav", "c/clip_3.wav"):
        save_voice(tmp_path / name, 0.1)
    assert [label for _, label in list_labelled(tmp_path / "a")] == ["yes"]
    assert [label for _, label in list_labelled(tmp_path / "b")] == ["7", "8"]
    assert [label for _, label in list_labelled(tmp_path / "c", ("yes", "no"))] == [None, "yes"]
    recordings = [Recording(audio=tmp_path / "c/yes_12.wav", seconds=0.1, sample_rate=8000, label="no")]
    write_manifest(tmp_path / "list.jsonl", recordings)
    assert [label for _, label in list_labelled(tmp_path / "list.jsonl", ("yes", "no"))] == ["no"]


def test_what_cannot_teach_is_refused(tmp_path):
    with pytest.raises(DataError, match="has 1 labels"):
        train_classifier(save_set(tmp_path / "one", 12, kinds=("tone",)))
    with pytest.raises(DataError, match="2 of them with fewer than 10 clips"):
        train_classifier(save_set(tmp_path / "few", 3))


def test_a_set_that_repeats_training_clips_is_told_from_a_fresh_one(classifier, corpus, tmp_path):
    fresh = save_set(tmp_path / "fresh", 12, first=100)
    (tmp_path / "copies" / "tone").mkdir(parents=True)
    for i in range(12):
        soundfile.write(tmp_path / "copies" / "tone" / f"{i}.wav", sound("tone", i % 2), RATE)
    (tmp_path / "copies" / "tone" / "broken.wav").write_bytes(b"none")
    seen: list[int] = []
    systems = {"fresh": fresh, "copies": tmp_path / "copies"}
    found = evaluate_sets(systems, corpus, SetOptions(classifier), seen.append)
    good, bad = (system.set_scores for system in found.systems)
    assert sum(seen) == 60 + 24 + 12
    assert (good["clips"], bad["clips"]) == (24, 12)
    assert good["accuracy"] > 0.8
    assert good["inception_score"] > 1.2 > bad["inception_score"]
    assert good["ndb"] < bad["ndb"]
    assert "ndb_50" not in good  # 60 real clips are too few for 50 bins
    assert good["modified_inception_score"] > bad["modified_inception_score"] >= 1
    assert good["am_score"] < bad["am_score"]
    assert good["within_class_diversity"] > bad["within_class_diversity"]
    assert good["nearest_training_clip"] > bad["nearest_training_clip"] < 1e-3
    assert "between_class_diversity" not in bad  # there is one class only
    assert [item.name for item in found.systems[1].excluded] == ["broken"]


def test_frechet_distance_takes_the_classifiers_or_other_features(classifier, corpus, tmp_path):
    fresh = {"fresh": save_set(tmp_path / "fresh", 6, first=100)}
    with pytest.raises(DataError, match="on 12 clips is mostly noise"):
        evaluate_sets(fresh, corpus, SetOptions(classifier, frechet=True))
    own = evaluate_sets(fresh, corpus, SetOptions(classifier, frechet=True, force=True)).systems[0].set_scores

    class Moments(torch.nn.Module):
        def forward(self, audio: torch.Tensor) -> torch.Tensor:
            return torch.stack([audio.mean(), audio.std(), audio.abs().max()])

    torch.jit.trace(Moments(), torch.randn(1, 99)).save(tmp_path / "moments.pt")
    options = SetOptions(embedder=tmp_path / "moments.pt", frechet=True, force=True)
    other = evaluate_sets(fresh, corpus, options).systems[0].set_scores
    assert other.keys() == {"clips", "frechet_distance"}
    assert 0 <= other["frechet_distance"] < 0.01
    assert own["frechet_distance"] != other["frechet_distance"]
    (tmp_path / "no.pt").write_bytes(b"none")
    with pytest.raises(ModelError, match="does not serve as a TorchScript model"):
        evaluate_sets(fresh, corpus, SetOptions(embedder=tmp_path / "no.pt", frechet=True, force=True))


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    """Two seconds with a note of A4 (MIDI 69) or A3 (57) each half second, decaying."""
    folder = tmp_path_factory.mktemp("notes")
    time = np.arange(22050 // 2) / 22050
    for name, hertz in (("a4", 440.0), ("a3", 220.0)):
        note = 0.5 * np.exp(-6 * time) * sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6))
        (folder / name).mkdir()
        soundfile.write(folder / name / "x.wav", np.tile(note / np.abs(note).max(), 4), 22050)
    return folder


def test_onsets_and_pitches_of_known_notes(notes):
    found = measure_music([notes / "a4" / "x.wav"])
    assert found.onset_rates.tolist() == pytest.approx([2.0], abs=0.5)
    assert np.median(found.pitches) == pytest.approx(69, abs=0.1)
    same = compare_music(found, found)
    assert (same["onset_distance"], same["pitch_distance"]) == (0, 0)


def test_another_octave_has_no_pitch_in_common(notes):
    scores = evaluate_sets({"a3": notes / "a3"}, notes / "a4", SetOptions(music=True)).systems[0].set_scores
    assert scores["pitch_midi_median"] == pytest.approx(57, abs=0.1)
    assert scores["pitch_distance"] > 0.9
    assert scores["onset_distance"] <= 1
