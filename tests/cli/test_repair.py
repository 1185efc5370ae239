"""`audiodiff repair`: kinds of damage, files in and out, and measuring on sound recordings."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.cli.main import main

RATE = 8000


@pytest.fixture
def repair(tiny_vocoder_folder, tmp_path, monkeypatch, voice):
    """Run `audiodiff repair --model TINY …` in a folder with in.wav."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", voice(0.6, RATE, 1), RATE)

    def run(*arguments, model=tiny_vocoder_folder):
        return CliRunner().invoke(main, ["repair", "--model", str(model), *map(str, arguments)])

    return run


def samples(path):
    return soundfile.read(path)[0]


def test_gaps_are_filled_and_the_rest_is_kept(repair):
    result = repair("in.wav", "-o", "out.wav", "--gap", "0.2-0.22", "--gap", "0.4-0.41", "--steps", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "in.wav -> out.wav\n"
    differs = np.flatnonzero(np.abs(samples("out.wav") - samples("in.wav")) > 1e-3)
    assert {*differs} <= {*range(1600, 1760), *range(3200, 3280)}
    assert len(differs) > 50


@pytest.mark.parametrize("kind", [("--declip", 0.2), ("--denoise", 10), ("--extend", 1500), ("--gap", "0.1-0.2")])
def test_a_sound_recording_is_damaged_first_and_measured(repair, kind):
    result = repair("in.wav", "-o", "out", *kind, "--degrade", "--steps", 2)
    assert result.exit_code == 0, result.stderr
    figures = r"SNR (-?\d+\.\d\d|inf) dB, LSD \d+\.\d\d dB"
    assert re.fullmatch(
        rf"in.wav -> out/repaired/in.wav  degraded {figures}  baseline {figures}  repaired {figures}\n", result.stdout
    )
    versions = [samples(f"out/{name}/in.wav") for name in ("degraded", "repaired")]
    assert not np.array_equal(*versions)
    again = repair("out/degraded/in.wav", "-o", "again.wav", *kind, "--steps", 2)
    assert again.exit_code == 0, again.stderr
    assert np.abs(samples("again.wav") - versions[1]).max() < 0.02  # but for the 16 bits of the file


def test_the_peak_tells_where_a_recording_was_clipped(repair):
    assert "so it does not look clipped there" in repair("in.wav", "-o", "out.wav", "--declip").stderr
    soundfile.write("silent.wav", np.zeros(2000), RATE)
    assert "silent.wav" in (said := repair("silent.wav", "-o", "out.wav", "--declip").stderr)
    assert "its peak is 0, which is silence" in said
    soundfile.write("clipped.wav", samples("in.wav").clip(-0.2, 0.2), RATE)
    assert repair("clipped.wav", "-o", "out.wav", "--declip").exit_code == 0
    assert repair("clipped.wav", "-o", "same.wav", "--declip", np.abs(samples("clipped.wav")).max()).exit_code == 0
    assert np.abs(samples("out.wav") - samples("same.wav")).max() < 1e-3
    assert np.abs(samples("out.wav")).max() > 0.2


@pytest.mark.parametrize(
    "option",
    [
        ("--start", "griffin-lim"),
        ("--start-log-snr", 3),
        ("--rounds", 1),
        ("--dps", 0.5),
        ("--no-replace",),
        ("--steps", 4),
        ("--sampler", "ddpm"),
        ("--corrector-steps", 1),
        ("--schedule", "cosine"),
        ("--seed", 3),
    ],
    ids=lambda option: option[0],
)
def test_every_option_counts(repair, option):
    plain = ("in.wav", "--gap", "0.2-0.3", "--steps", 3)
    assert repair(*plain, "-o", "plain.wav").exit_code == 0
    result = repair(*plain, *option, "-o", "changed.wav")
    assert result.exit_code == 0, result.stderr
    assert not np.array_equal(samples("plain.wav"), samples("changed.wav"))


def test_a_generator_takes_a_label(repair, tiny_generator_folder):
    for label in ("yes", "no"):
        arguments = ("in.wav", "-o", f"{label}.wav", "--gap", "0.2-0.3", "--label", label)
        assert repair(*arguments, model=tiny_generator_folder).exit_code == 0
    assert not np.array_equal(samples("yes.wav"), samples("no.wav"))


def test_rates_files_that_are_there_and_failures(repair, save_voice):
    save_voice(Path("many/slow.wav"), 0.5, 11025)
    save_voice(Path("many/right.wav"), 0.5, RATE)
    result = repair("many", "-o", "out", "--extend", 2000)
    assert result.exit_code == 1
    assert "slow.wav is 11025 Hz; this model needs 8000 Hz. Use --resample." in result.stderr
    assert Path("out/right.wav").is_file()
    result = repair("many", "-o", "out", "--extend", 2000, "--resample")
    assert result.exit_code == 0
    assert "out/right.wav  skipped" in result.stdout
    assert soundfile.info("out/slow.wav").samplerate == RATE
    assert "right.wav ->" in repair("many", "-o", "out", "--extend", 2000, "--resample", "--overwrite").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --gap, --declip, --denoise and --extend, got none"),
        (("--denoise", 3, "--extend", 100), "got denoise, extend"),
        (("--gap", "0.2"), "'0.2' is not like 1.20-1.25"),
        (("--declip", 7), "'7' is not a number above 0 and at most 1 (of full scale), or auto"),
        (("--declip", "--degrade"), "--degrade needs the level to clip at"),
        (("--extend", 100, "--degrade"), "must be a folder"),
    ],
)
def test_wrong_usage_is_2(repair, arguments, message):
    result = repair("in.wav", "-o", "out.wav" if "must be" in message else "out", *arguments)
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True), result.stderr


def test_a_mel_cannot_be_repaired(repair):
    np.save("mel.npy", np.zeros((20, 30), np.float32))
    assert "mel.npy is a mel" in repair("mel.npy", "-o", "out", "--denoise", 3).stderr
