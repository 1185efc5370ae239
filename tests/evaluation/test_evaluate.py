"""Folders become one document: every pair scored or named, the same in any number of processes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiodiff.audio.io import load_audio
from audiodiff.errors import DataError
from audiodiff.evaluation.evaluate import AlignmentOptions, Task, evaluate, read_timings, score_files
from audiodiff.evaluation.listing import Match
from audiodiff.evaluation.scoring import score

RATE = 16000


def test_scores_are_those_of_the_library(evaluation, folders):
    for system, path in zip(evaluation.systems, (folders.good, folders.bad), strict=True):
        assert [file.name for file in system.files] == ["clip0", "clip1", "clip2", "clip3"]
        for file in system.files:
            recordings = (load_audio(folder / f"{file.name}.wav") for folder in (path, folders.reference))
            assert file.scores == pytest.approx(score(*recordings, RATE, evaluation.metrics))


@pytest.mark.slow  # each process imports torch
def test_processes_change_nothing_but_the_time(evaluation, folders):
    steps: list[int] = []
    systems = {"good": folders.good, "bad": folders.bad}
    again = evaluate(systems, folders.reference, evaluation.metrics, jobs=2, on_progress=steps.append)
    assert [system.model_dump() for system in again.systems] == [system.model_dump() for system in evaluation.systems]
    assert sum(steps) == 8


def test_every_awkward_file_is_named_and_none_is_in_a_mean(folders, tmp_path, voice):
    generated = tmp_path / "generated"
    shutil.copytree(folders.good, generated)
    soundfile.write(generated / "clip0.wav", np.zeros(RATE), RATE)
    (generated / "clip1.wav").write_bytes(b"no audio")
    (generated / "clip2.wav").unlink()
    soundfile.write(generated / "clip9.wav", voice(0.2, RATE), RATE)
    found = evaluate({"system": generated}, folders.reference, ["m_stft"], jobs=1)
    (system,) = found.systems
    assert [file.name for file in system.files] == ["clip3"]
    reasons = {item.name: item.reason for item in system.excluded}
    assert "clip0.wav is silent" in reasons["clip0"]
    assert "clip1.wav cannot be read" in reasons["clip1"]
    assert f"clip2.wav has no partner in {generated}." in reasons["clip2"]
    assert f"clip9.wav has no partner in {folders.reference}." in reasons["clip9"]
    assert system.summary("m_stft").n == 1
    assert system.n_failed("m_stft") == 4
    assert len(found.problems) == 4


def test_the_real_time_factor_comes_from_what_vocode_printed(folders, tmp_path):
    log = tmp_path / "log"
    target = folders.good / "clip0.wav"
    log.write_text(
        f"in/clip0.wav -> {target}  1.00 s, synthesised in 0.25 s, real-time factor 0.250  PESQ-WB 3.9\n"
        "clips/yes_0.wav  1.00 s, made in 0.50 s, real-time factor 0.500\nmean of 2  PESQ-WB 3.9\n"
    )
    timings = read_timings(log)
    assert timings == {str(target): 0.25, os.path.abspath("clips/yes_0.wav"): 0.5}
    found = evaluate({"a": folders.good}, folders.reference, ["real_time_factor"], timings=timings, jobs=1).systems[0]
    assert found.scores("real_time_factor") == {"clip0": 0.25}
    assert "synthesis time unknown; pass `--timings`" in found.files[1].failures["real_time_factor"]
    log.write_text("nothing of the kind")
    with pytest.raises(DataError, match="no line that states a synthesis time"):
        read_timings(log)


def test_alignment_of_mcd_is_passed_on(folders):
    pytest.importorskip("pyworld")
    match = Match("clip0", Path(folders.bad / "clip0.wav"), Path(folders.reference / "clip0.wav"))
    plain, warped = (score_files(Task(match, ("mcd",), AlignmentOptions(), how)) for how in ("none", "dtw"))
    assert warped.scores["mcd"] < plain.scores["mcd"]
