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
KINDS = [
    ("--declip", 0.2),
    ("--denoise", 10),
    ("--extend", 1500, "--start", "baseline"),  # Griffin-Lim, with this model, makes much of the rounding to 16 bits
    ("--gap", "0.1-0.2"),
]


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
    assert result.stdout == "in.wav -> out.wav  tiny-vocoder; 8,000 Hz, mono, 16 bit\n"
    differs = np.flatnonzero(samples("out.wav") != samples("in.wav"))
    assert {*differs} <= {*range(1600, 1760), *range(3200, 3280)}
    assert len(differs) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_recording_is_damaged_first_and_measured(repair, kind):
    result = repair("in.wav", "-o", "out", *kind, "--degrade", "--steps", 2)
    assert result.exit_code == 0, result.stderr
    figures = r"SNR (-?\d+\.\d\d|inf) dB, LSD \d+\.\d\d dB"
    assert re.fullmatch(
        rf"in.wav -> out/repaired/in.wav  tiny-vocoder; 8,000 Hz, mono, 16 bit  degraded {figures}  "
        rf"baseline {figures}  repaired {figures}\n",
        result.stdout,
    )
    versions = [samples(f"out/{name}/in.wav") for name in ("degraded", "repaired")]
    assert not np.array_equal(*versions)
    again = repair("out/degraded/in.wav", "-o", "again.wav", *kind, "--steps", 2)
    assert again.exit_code == 0, again.stderr
    assert np.abs(samples("again.wav") - versions[1]).max() < 0.02  # but for the 16 bits of the file


def test_the_peak_tells_where_a_recording_was_clipped(repair):
    soundfile.write("clipped.wav", samples("in.wav").clip(-0.2, 0.2), RATE)
    assert repair("clipped.wav", "-o", "out.wav", "--declip").exit_code == 0
    assert repair("clipped.wav", "-o", "same.wav", "--declip", np.abs(samples("clipped.wav")).max()).exit_code == 0
    assert np.abs(samples("out.wav") - samples("same.wav")).max() < 1e-3
    assert np.abs(samples("out.wav")).max() > 0.2


def test_what_was_clipped_at_full_scale_is_not_clipped_again(repair):
    soundfile.write("clipped.wav", (5 * samples("in.wav")).clip(-1, 1), RATE)
    result = repair("clipped.wav", "-o", "out.wav", "--declip")
    down = float(re.search(r"turned down by (\d+\.\d) dB to make room", result.stdout)[1])
    before, after = samples("clipped.wav"), samples("out.wav")
    kept = np.abs(before) < 0.99
    assert np.allclose(after[kept] * 10 ** (down / 20), before[kept], atol=0.01)
    assert (np.abs(after) > 0.999).sum() < 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--declip",), r"too few samples \(1\) reach its peak, 0.\d+, so it does not look clipped there"),
        (("--declip", 0.9), r"no sample reaches 0.9, its peak is 0.\d+"),
        (("--denoise",), r"noise estimated at \d+.\d dB SNR, which is clean; --denoise SNR_DB filters all the same"),
        (("--extend", 1500), r"it goes on above 1,500 Hz: the level there is [+-]\d+ dB of that below"),
        (("--extend", 3900), r"at 8,000 Hz there is nothing to fill in above 3,900 Hz"),
        (("--gap", "3-4", "--gap", "9-9.1"), r"2 gaps begin after its end at 0.600 s"),
    ],
    ids=str,
)
def test_a_recording_without_such_damage_is_left_as_it_is(repair, options, said):
    sound = np.random.default_rng(0).standard_normal(4800) * np.where(np.arange(4800) < 2000, 1e-5, 0.1)
    soundfile.write("in.wav", np.stack([sound, sound / 2], 1), RATE, subtype="PCM_24")
    result = repair("in.wav", "-o", "out.flac", *options)
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(
        rf"in.wav -> out.flac  without a model; 8,000 Hz, stereo, 24 bit  left as it is: {said}.*\n", result.stdout
    )
    assert np.array_equal(soundfile.read("in.wav", dtype="int32")[0], soundfile.read("out.flac", dtype="int32")[0])


@pytest.mark.parametrize(
    ("subtype", "dtype", "said"), [("PCM_32", "int32", "32 bit"), ("DOUBLE", "float64", "64 bit float")]
)
@pytest.mark.parametrize("gap", ["0.2-0.21", "3-4"])  # one that is filled, one behind the end
def test_more_than_24_bits_are_kept_where_nothing_was_repaired(repair, subtype, dtype, said, gap):
    sound = np.random.default_rng(0).standard_normal(4800) / 10
    soundfile.write("in.wav", sound, RATE, subtype=subtype)
    result = repair("in.wav", "-o", "out.wav", "--gap", gap, "--method", "baseline")
    assert f"8,000 Hz, mono, {said}" in result.stdout
    assert soundfile.info("out.wav").subtype == subtype
    before, after = (soundfile.read(name, dtype=dtype)[0] for name in ("in.wav", "out.wav"))
    inside = slice(1599, 1681)
    assert (np.delete(before, inside) == np.delete(after, inside)).all()
    assert (before[inside] == after[inside]).all() == (gap == "3-4")
    assert (before != before.astype(np.float32).astype(dtype)).any()


def test_what_is_too_short_to_have_a_pause_is_left_as_it_is(repair):
    vowel = sum(np.sin(2 * np.pi * 120 * k * np.arange(2000) / RATE) / k for k in range(1, 9)) / 4
    soundfile.write("vowel.wav", vowel, RATE)
    said = repair("vowel.wav", "-o", "out.wav", "--denoise").stdout
    assert "left as it is: 0.25 s are too short to tell noise from sound" in said
    assert (soundfile.read("out.wav")[0] == soundfile.read("vowel.wav")[0]).all()


def test_silence_is_left_as_it_is(repair):
    soundfile.write("silent.wav", np.zeros(2000), RATE)
    for option in ("--declip", "--denoise"):
        said = repair("silent.wav", "-o", "out.wav", option, "--overwrite").stdout
        assert re.search("left as it is: (its peak is 0, which is silence|no steady noise was found)", said)
        assert not samples("out.wav").any()


def test_the_noise_is_estimated(repair):
    noisy = samples("in.wav")
    noisy[:2000] = 0
    noisy += 0.05 * np.random.default_rng(0).standard_normal(4800)
    soundfile.write("noisy.wav", noisy, RATE)
    result = repair("noisy.wav", "-o", "out.wav", "--denoise")
    estimated = float(re.search(r"noise estimated at (\d+.\d) dB SNR\n", result.stdout)[1])
    assert estimated == pytest.approx(10 * np.log10((noisy**2).mean() / 0.05**2 - 1), abs=1)
    assert samples("out.wav")[:1600].std() < 0.02


def test_a_gap_outside_is_left_out_and_one_inside_is_filled(repair):
    result = repair("in.wav", "-o", "out.wav", "--gap", "0.2-0.21", "--gap", "3-4")
    assert result.stdout.endswith("1 gap begins after its end at 0.600 s\n")
    assert not np.array_equal(samples("in.wav"), samples("out.wav"))
    result = repair("in.wav", "-o", "partly.wav", "--gap", "0.5-0.7")
    assert (result.exit_code, "exceeds the recording" in result.stderr) == (1, True)


def test_what_needs_no_model_keeps_the_rate(repair, voice):
    sound = np.stack([voice(0.6, 44100, seed) for seed in (1, 2)], 1)
    soundfile.write("high.wav", sound.clip(-0.2, 0.2), 44100, subtype="PCM_24")
    for option in (("--declip",), ("--denoise", 30), ("--gap", "0.3-0.31")):
        result = repair("high.wav", "-o", "out.wav", *option, "--overwrite")
        assert "without a model; 44,100 Hz, stereo, 24 bit" in result.stdout, result.stderr
        assert soundfile.info("out.wav").subtype == "PCM_24"
    before, after = (soundfile.read(name, dtype="int32")[0] for name in ("high.wav", "out.wav"))
    assert np.array_equal(np.delete(before, slice(13230, 13671), 0), np.delete(after, slice(13230, 13671), 0))
    result = repair("high.wav", "-o", "out.wav", "--declip", "--method", "diffusion", "--overwrite", "--steps", 1)
    assert "needs 8000 Hz. Use --resample" in result.stderr


def test_a_page_plays_before_and_after(repair):
    Path("many").mkdir()
    for name in ("a", "b"):
        soundfile.write(f"many/{name}.wav", samples("in.wav"), RATE)
    result = repair("many", "-o", "out", "--denoise", 10, "--page", "page")
    assert result.stderr == "page: page/index.html\n"
    page = Path("page/index.html").read_text()
    assert page.count("<audio") == 4
    assert all(f'data-system="{system}"' in page for system in ("before", "after"))
    repair("many", "-o", "tried", "--denoise", 10, "--degrade", "--page", "page")
    assert Path("page/index.html").read_text().count("where it was degraded: SNR") == 2 * 3


@pytest.mark.parametrize(
    "option",
    [
        ("--start", "griffin-lim"),
        ("--start-log-snr", 3),
        ("--method", "baseline"),
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
    plain = ("in.wav", "--gap", "0.2-0.3", "--steps", 3, "--method", "diffusion")
    assert repair(*plain, "-o", "plain.wav").exit_code == 0
    result = repair(*plain, *option, "-o", "changed.wav")
    assert result.exit_code == 0, result.stderr
    assert not np.array_equal(samples("plain.wav"), samples("changed.wav"))


def test_a_generator_takes_a_label(repair, tiny_generator_folder):
    for label in ("yes", "no"):
        arguments = ("in.wav", "-o", f"{label}.wav", "--gap", "0.2-0.3", "--label", label, "--method", "diffusion")
        assert repair(*arguments, model=tiny_generator_folder).exit_code == 0
    assert not np.array_equal(samples("yes.wav"), samples("no.wav"))


def test_rates_files_that_are_there_and_failures(repair, save_voice):
    save_voice(Path("many/slow.wav"), 0.5, 11025)
    save_voice(Path("many/right.wav"), 0.5, RATE)
    result = repair("many", "-o", "out", "--denoise", 10, "--method", "diffusion")
    assert result.exit_code == 1
    assert "slow.wav is 11025 Hz; this model needs 8000 Hz. Use --resample." in result.stderr
    assert Path("out/right.wav").is_file()
    result = repair("many", "-o", "out", "--denoise", 10, "--method", "diffusion", "--resample")
    assert result.exit_code == 0
    assert "out/right.wav  skipped" in result.stdout
    assert soundfile.info("out/slow.wav").samplerate == RATE
    assert "right.wav ->" in repair("many", "-o", "out", "--denoise", 10, "--overwrite").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --gap, --declip, --denoise and --extend, got none"),
        (("--denoise", 3, "--extend", 100), "got denoise, extend"),
        (("--gap", "0.2"), "'0.2' is not like 1.20-1.25"),
        (("--declip", 7), "'7' is not a number above 0 and at most 1 (of full scale), or auto"),
        (("--declip", "--degrade"), "--degrade needs the level to clip at"),
        (("--degrade", "--denoise"), "--degrade needs a ratio"),
        (("--extend", 100, "--degrade"), "must be a folder"),
    ],
)
def test_wrong_usage_is_2(repair, arguments, message):
    result = repair("in.wav", "-o", "out.wav" if "must be" in message else "out", *arguments)
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True), result.stderr


def test_a_mel_cannot_be_repaired(repair):
    np.save("mel.npy", np.zeros((20, 30), np.float32))
    assert "mel.npy is a mel" in repair("mel.npy", "-o", "out", "--denoise", 3).stderr
