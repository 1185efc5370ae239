"""A search scores what users would hear, keeps every trial, and puts the best levels into a model folder."""

import pytest
import torch

from audiodiff import Vocoder
from audiodiff.checkpoint import WEIGHTS, load_config, load_model, save_model
from audiodiff.data.corpus import open_source
from audiodiff.errors import AudioError, DataError, ModelError
from audiodiff.evaluation.scoring import score
from audiodiff.search.schedule import SearchConfig, as_searched, search_levels, store
from audiodiff.search.study import Clip, Scorer, Study, read_clips


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def clips(voice):
    return [Clip(f"clip {seed}", torch.from_numpy(voice(0.3, 8000, seed))[None]) for seed in (1, 2)]


@pytest.fixture
def folder(tiny_vocoder_folder, tmp_path):
    network, config = load_model(tiny_vocoder_folder)
    save_model(tmp_path / "model", network.state_dict(), config, half=True)
    return tmp_path / "model"


class Bowl(Scorer):
    """A scorer whose scores are known: best at (-3, 7)."""

    asked = 0

    def __call__(self, levels):
        self.asked += 1
        return sum((level - best) ** 2 for level, best in zip(levels, (-3.0, 7.0), strict=True)), ""


@pytest.mark.parametrize("start", ["noise", "griffin-lim"])
def test_a_score_is_that_of_what_a_user_gets(vocoder, clips, start):
    scorer, levels = Scorer(vocoder, clips, "m_stft", {"start": start}, seed=3), (-5.0, 4.0)
    expected = []
    for clip in clips:
        made = vocoder(vocoder.mel(clip.audio), seed=3, start=start, log_snrs=levels)[:, : clip.audio.shape[-1]]
        expected.append(score(made, clip.audio, 8000, ["m_stft"])["m_stft"])
    assert scorer(levels) == (pytest.approx(sum(expected) / 2, rel=1e-6), "")
    assert scorer(levels)[0] == scorer(levels)[0]
    assert scorer((-5.0, 6.0))[0] != scorer(levels)[0]


def test_the_estimate_is_made_once_for_all_levels(vocoder, clips, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "audiodiff.pipelines.mel_initialisation.waveform_from_mel", lambda *a, **k: calls.append(1) or a[1]
    )
    scorer = Scorer(vocoder, clips, "m_stft", {"start": "griffin-lim"})
    scorer((1.0, 4.0))
    scorer((2.0, 4.0))
    assert len(calls) == len(clips)


def test_more_steps_take_longer_and_the_estimate_is_part_of_the_time(vocoder, clips):
    scorer = Scorer(vocoder, clips, "m_stft", {"start": "griffin-lim"})
    one, many = scorer.real_time_factors([(1.0,), tuple(range(-8, 8))])
    noise = Scorer(vocoder, clips, "m_stft").real_time_factors([(-8.0,)])[0]
    assert 0 < noise < one < many


def test_a_search_ends_better_than_evenly_spaced_and_every_trial_is_kept(vocoder, clips, tmp_path):
    scorer, study = Bowl(vocoder, clips, "m_stft"), Study(tmp_path / "s.jsonl", {})
    found = search_levels(scorer, SearchConfig(2, "coordinate", 60), study)
    assert found.uniform.levels == (-8.0, 10.0)  # the model's own ends
    assert found.best.score < 0.1 < found.uniform.score
    assert len(list(study)) == scorer.asked == found.n_trials <= 60


def test_a_killed_search_goes_on_to_the_same_end(vocoder, clips, tmp_path):
    search, whole, parts = (
        SearchConfig(2, "coordinate", 40),
        *(tmp_path / name for name in ("whole.jsonl", "parts.jsonl")),
    )
    straight = search_levels(Bowl(vocoder, clips, "m_stft"), search, Study(whole, {}))
    killed = Bowl(vocoder, clips, "m_stft")
    with pytest.raises(KeyboardInterrupt):
        search_levels(killed, search, Study(parts, {}), on_trial=lambda: _stop_after(killed, 15))
    again = Bowl(vocoder, clips, "m_stft")
    assert search_levels(again, search, Study(parts, {})) == straight
    assert again.asked == straight.n_trials - 15
    assert whole.read_text() == parts.read_text()


def _stop_after(scorer, n):
    if scorer.asked == n:
        raise KeyboardInterrupt


def test_a_shorter_search_does_not_forget_what_a_longer_one_found(vocoder, clips, tmp_path):
    scorer = Bowl(vocoder, clips, "m_stft")
    long = search_levels(scorer, SearchConfig(2, "coordinate", 60), Study(tmp_path / "s.jsonl", {}))
    assert search_levels(scorer, SearchConfig(2, "grid", 5), Study(tmp_path / "s.jsonl", {})).best == long.best


def test_a_score_that_is_better_the_higher_is_maximised(vocoder, clips, tmp_path):
    class Hill(Bowl):
        def __call__(self, levels):
            return -super().__call__(levels)[0], ""

    found = search_levels(
        Hill(vocoder, clips, "pesq_wb"), SearchConfig(2, "coordinate", 60), Study(tmp_path / "s.jsonl", {})
    )
    assert found.best.score > -0.1


def test_levels_without_a_score_do_not_end_a_search(vocoder, clips, tmp_path):
    class Deaf(Bowl):
        def __call__(self, levels):
            return super().__call__(levels) if levels[0] <= -4 else (None, "clip 1 has no M-STFT: it is silent.")

    study = Study(tmp_path / "s.jsonl", {})
    found = search_levels(Deaf(vocoder, clips, "m_stft"), SearchConfig(2, "coordinate", 60), study)
    assert found.best.levels[0] == pytest.approx(-4, abs=0.1)
    assert {trial.get("reason") for trial in study} == {None, "clip 1 has no M-STFT: it is silent."}


def test_a_recording_that_cannot_have_a_score_is_named(vocoder, tmp_path):
    silent = Scorer(vocoder, [Clip("quiet.wav", torch.zeros(1, 2400))], "pesq_wb")
    with pytest.raises(DataError, match=r"quiet.wav has no PESQ-WB: .* Leave that recording out"):
        search_levels(silent, SearchConfig(2, "grid", 5), Study(tmp_path / "s.jsonl", {}))


def test_what_scores_depend_on_is_in_the_study(vocoder, clips, folder):
    plain = Scorer(vocoder, clips, "m_stft").fingerprint(folder)
    others = [
        Scorer(vocoder, clips, "log_mel"),
        Scorer(vocoder, clips[:1], "m_stft"),
        Scorer(vocoder, clips, "m_stft", {"start": "griffin-lim"}),
        Scorer(vocoder, clips, "m_stft", {"sampler": "ddpm"}),
        Scorer(vocoder, clips, "m_stft", seed=1),
    ]
    assert all(other.fingerprint(folder) != plain for other in others)


def test_levels_go_into_a_folder_and_the_weights_stay_as_they_are(vocoder, clips, folder, tmp_path):
    scorer, study = Bowl(vocoder, clips, "m_stft"), Study(tmp_path / "s.jsonl", {})
    before = (folder / WEIGHTS).read_bytes()
    for trials in (10, 60):
        found = as_searched(search_levels(scorer, SearchConfig(2, "coordinate", trials), study), scorer, "2 recordings")
        store(folder, folder, found)
    store(folder, folder, found.model_copy(update={"start": "griffin-lim"}))
    searched = load_config(folder).synthesis.searched
    assert [entry.start for entry in searched] == ["griffin-lim", "noise"]
    assert searched[1] == found
    assert (folder / WEIGHTS).read_bytes() == before
    made = Vocoder.from_pretrained(folder, "cpu")
    with pytest.warns(UserWarning, match="schedule 'searched' with 2 steps begins at log-SNR -3"):
        settings = made.settings({"schedule": "searched", "steps": 2})
    assert tuple(made.noise_levels(settings)[:-1].tolist()) == found.log_snrs


def test_levels_do_not_go_into_another_model(vocoder, clips, folder, tiny_vocoder_folder, tmp_path):
    scorer = Bowl(vocoder, clips, "m_stft")
    found = as_searched(search_levels(scorer, SearchConfig(2, "grid", 5), Study(tmp_path / "s.jsonl", {})), scorer, "")
    with pytest.raises(ModelError, match="holds a model with other weights"):
        store(tiny_vocoder_folder, folder, found)


def test_recordings_are_read_as_asked(tmp_path, save_voice):
    save_voice(tmp_path / "a.wav", 1.0, 8000)
    recordings = open_source(str(tmp_path))
    assert [clip.audio.shape for clip in read_clips(recordings, 8000)] == [(1, 8000)]
    assert [clip.audio.shape for clip in read_clips(recordings, 8000, seconds=0.25)] == [(1, 2000)]
    assert [clip.audio.shape for clip in read_clips(recordings, 8000, seconds=5)] == [(1, 8000)]
    assert [clip.audio.shape for clip in read_clips(recordings, 16000, resample=True)] == [(1, 16000)]
    with pytest.raises(AudioError, match=r"a.wav is 8000 Hz; this model needs 16000 Hz. Use --resample"):
        read_clips(recordings, 16000)
