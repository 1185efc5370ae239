"""Splits keep their shares and their speakers, and files that are added do not move the others."""

import numpy as np
import pytest

from audiodiff.data.manifest import Recording
from audiodiff.data.splits import assign_parts, refuse_empty_training, split, split_by_names, split_keys
from audiodiff.errors import DataError


def recordings_named(names, **fields):
    return [Recording(audio=name, seconds=1.0, sample_rate=8000, **fields) for name in names]


@pytest.fixture
def recordings():
    return recordings_named([f"clips/{i}.wav" for i in range(400)])


def test_split_has_the_shares_and_loses_nothing(recordings):
    parts = split(recordings, 0.2, 0.1)
    assert sorted(r.audio for part in parts for r in part) == sorted(r.audio for r in recordings)
    # A binomial count is within three standard deviations of its mean.
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert abs(len(part) - 400 * share) < 3 * np.sqrt(400 * share * (1 - share))


def test_added_files_do_not_move_the_others(recordings):
    few, many = split(recordings[::2], 0.2, 0.1), split(recordings, 0.2, 0.1)
    assert all(set(ours) <= set(theirs) for ours, theirs in zip(few, many, strict=True))


def test_seed_and_nothing_else_decides_the_split(recordings):
    assert split(recordings, 0.2, 0.1, 1) == split(recordings, 0.2, 0.1, 1)
    assert split(recordings, 0.2, 0.1, 1) != split(recordings, 0.2, 0.1, 2)


def test_a_corpus_may_move(recordings, tmp_path):
    moved = [r.model_copy(update={"audio": tmp_path / r.audio}) for r in recordings]
    here, there = split(recordings, 0.2, root="."), split(moved, 0.2, root=tmp_path)
    assert [r.audio for r in here.valid] == [r.audio.relative_to(tmp_path) for r in there.valid]


def test_a_share_is_never_empty_and_no_share_always_is():
    few = recordings_named(["a.wav", "b.wav", "c.wav"])
    assert [len(part) for part in split(few, 0.01, 0.01)] == [1, 1, 1]
    assert [len(part) for part in split(few, 0, 0)] == [3, 0, 0]
    assert [len(part) for part in split([], 0.1, 0.1)] == [0, 0, 0]


def test_many_speakers_stay_whole_and_few_do_not():
    def spoken(n_speakers):
        return [
            r.model_copy(update={"speaker": str(i % n_speakers)})
            for i, r in enumerate(recordings_named([f"{i}.wav" for i in range(200)]))
        ]

    many = split(spoken(20), 0.2, 0.2)
    assert set.isdisjoint(*({r.speaker for r in part} for part in many[1:]))
    assert {r.speaker for r in many.train}.isdisjoint(r.speaker for part in many[1:] for r in part)
    few = split(spoken(2), 0.2, 0.2)
    assert all({r.speaker for r in part} == {"0", "1"} for part in few)


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5)])
def test_impossible_shares_are_refused(recordings, shares):
    with pytest.raises(DataError, match="cannot hold out"):
        split(recordings, *shares)


def test_groups_stay_whole_where_there_are_enough_of_them(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(40)]
    assert split_keys(paths, [str(i % 10) for i in range(40)], tmp_path)[:2] == ["speaker 0", "speaker 1"]
    assert split_keys(paths, [str(i % 9) for i in range(40)], tmp_path)[:2] == ["file 0.wav", "file 1.wav"]
    assert split_keys(paths[:2], [None, None])[0] == f"file {paths[0].as_posix()}"


def test_equal_keys_go_the_same_way():
    parts = assign_parts(["a", "b", "c", "a", "d"] * 3, 0.3, 0.3)
    assert len(set(zip(["a", "b", "c", "a", "d"] * 3, parts, strict=True))) == 4


def test_training_gets_something_wherever_there_are_three():
    for n in range(3, 30):
        for seed in range(20):
            parts = split(recordings_named([f"{i}.wav" for i in range(n)]), 0.49, 0.5, seed)
            assert all(parts), (n, seed)


@pytest.mark.parametrize(("n", "advice"), [(1, "--valid-fraction 0 --test-fraction 0"), (2, "use --test-fraction 0")])
def test_too_few_recordings_are_refused_with_what_helps(n, advice):
    parts = split(recordings_named([f"{i}.wav" for i in range(n)]), 0.1, 0.1)
    with pytest.raises(DataError, match=rf"corpus has {n} recordings?, too few for three parts.*{advice}"):
        refuse_empty_training(parts.counts, "corpus")
    fractions = (0.0 if "--valid" in advice else 0.1, 0.0)
    refuse_empty_training(split(recordings_named([f"{i}.wav" for i in range(n)]), *fractions).counts, "corpus")


def test_names_of_lists_may_have_extensions_blanks_and_folders():
    recordings = recordings_named(["c/a/1.wav", "c/b/1.wav", "c/a/my clip.flac", "c/a/v1.2.wav", "c/x.wav", "c/y.wav"])
    parts = split_by_names(recordings, ["a/1.WAV", "my clip.wav "], ["v1.2", "\tx.flac"])
    assert [str(r.audio) for r in parts.valid] == ["c/a/1.wav", "c/a/my clip.flac"]
    assert [str(r.audio) for r in parts.test] == ["c/a/v1.2.wav", "c/x.wav"]
    with pytest.raises(
        DataError, match=r"1 of the names listed belong to no recording, such as 'z\\u2028'. .*such as '1'"
    ):
        split_by_names(recordings, ["x", "z\u2028"])
    with pytest.raises(DataError, match="name all 6 recordings; none is left to train on"):
        split_by_names(recordings, ["1", "my clip"], ["v1.2", "x", "y"])
