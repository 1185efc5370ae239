"""`audiodiff vocode`: what goes in comes out, file by file, and what is wrong is said by name."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from audiodiff import Vocoder, load_audio, save_audio
from audiodiff.cli import options
from audiodiff.cli.main import main
from audiodiff.cli.vocode import _mean_scores
from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.diffusion.samplers import SAMPLERS
from audiodiff.diffusion.schedules import SCHEDULES
from audiodiff.pipelines.files import Job
from audiodiff.pipelines.vocode_files import VocodeOptions, vocode_files

RATE = 8000
LINE = r"{} -> {}  \d+\.\d\d s, synthesised in \d+\.\d\d s, real-time factor \d+\.\d\d\d"
LINE += r"  tiny-vocoder; 8,000 Hz, mono, 16 bit"


@pytest.fixture
def vocode(tiny_vocoder_folder, tmp_path, monkeypatch):
    """Run `audiodiff vocode … --model TINY` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_vocoder_folder):
        return CliRunner().invoke(main, ["vocode", *map(str, arguments), "--model", str(model)])

    return run


@pytest.fixture
def good(save_voice, tmp_path):
    """A recording that can be vocoded, of no whole number of frames."""
    return save_voice(tmp_path / "good.wav", 0.2501).relative_to(tmp_path)


@pytest.fixture(scope="session")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


def samples(path):
    return soundfile.read(path, dtype="int16", always_2d=True)[0].T.astype(int)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_a_recording_into_a_folder(vocode, good):
    result = vocode(good, "--output", "out")
    assert result.exit_code == 0
    assert re.fullmatch(LINE.format("good.wav", "out/good.wav") + "\n", result.stdout)
    info = soundfile.info("out/good.wav")
    assert (info.samplerate, info.frames, info.channels) == (RATE, soundfile.info(good).frames, 1)


@pytest.mark.parametrize("name", ["new.wav", "deep/new.flac"])
def test_a_recording_into_a_file(vocode, good, name):
    assert vocode(good, "-o", name).exit_code == 0
    assert soundfile.info(name).format == Path(name).suffix[1:].upper()
    assert soundfile.info(name).frames == soundfile.info(good).frames


def test_it_is_what_the_library_makes(vocode, good, vocoder):
    vocode(good, "-o", "out", "--seed", 5)
    audio = load_audio(good, sample_rate=RATE)
    expected = vocoder(vocoder.mel(audio), seed=5)[:, : audio.shape[1]].clamp(-1, 1)
    assert np.abs(samples("out/good.wav") - 32768 * expected.numpy()).max() <= 1


def test_a_dc_offset_is_taken_out_and_named(vocode, good):
    plain, rate = soundfile.read(good)
    soundfile.write("offset.wav", plain - plain.mean() + 0.1, rate, subtype="FLOAT")
    soundfile.write("centred.wav", plain - plain.mean(), rate, subtype="FLOAT")
    result = vocode("offset.wav", "-o", "out.wav")
    assert "offset.wav has a DC offset of 0.100, which is removed" in result.stderr
    assert vocode("centred.wav", "-o", "expected.wav").stderr == ""
    assert np.abs(samples("out.wav") - samples("expected.wav")).max() <= 1


def test_folders_keep_their_structure(vocode, save_voice):
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/deep/c.wav", "other/a.ogg"):
        save_voice(Path(name), 0.1)
    Path("in/notes.txt").write_text("no audio, not asked for")
    Path("in/.hidden.wav").write_text("likewise")
    np.save("in/deep/mel.npy", np.full((20, 12), -5.0))
    result = vocode("in", "-o", "out")
    assert result.exit_code == 0, result.stderr
    found = {str(path) for path in Path("out").rglob("*") if path.is_file()}
    assert found == {"out/a.wav", "out/deep/er/b.wav", "out/deep/c.wav", "out/deep/mel.wav"}


def test_results_within_the_input_folder_are_no_inputs(vocode, save_voice):
    save_voice(Path("in/a.wav"), 0.1)
    for _ in range(2):
        result = vocode("in", "-o", "in/out", "--overwrite")
        assert result.exit_code == 0
        assert result.stdout.count("\n") == 1
    assert "left out as results of earlier runs: 1 in in/out" in result.stderr


def test_the_same_file_twice_is_done_once(vocode, save_voice):
    save_voice(Path("in/a.wav"), 0.1)
    assert vocode("in", "in/a.wav", "-o", "out").stdout.count("\n") == 1


def test_channels_stay_apart(vocode, voice):
    left, right = voice(0.2, RATE, 1), voice(0.2, RATE, 2)
    soundfile.write("both.wav", np.stack([left, right], 1), RATE)
    soundfile.write("left.wav", left, RATE)
    soundfile.write("right.wav", right, RATE)
    assert vocode("both.wav", "left.wav", "right.wav", "-o", "out").exit_code == 0
    both = samples("out/both.wav")
    assert np.abs(both - np.concatenate([samples("out/left.wav"), samples("out/right.wav")])).max() <= 1
    assert not np.array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("name", "subtype", "target", "expected", "said"),
    [
        ("in.wav", "PCM_U8", "out.wav", "PCM_16", "16 bit"),
        ("in.wav", "PCM_16", "out.wav", "PCM_16", "16 bit"),
        ("in.wav", "PCM_24", "out.wav", "PCM_24", "24 bit"),
        ("in.wav", "PCM_32", "out.wav", "PCM_32", "32 bit"),
        ("in.wav", "FLOAT", "out.wav", "FLOAT", "32 bit float"),
        ("in.wav", "DOUBLE", "out.wav", "FLOAT", "32 bit float"),
        ("in.flac", "PCM_24", "out.wav", "PCM_24", "24 bit"),
        ("in.wav", "PCM_24", "out.flac", "PCM_24", "24 bit"),
        ("in.wav", "FLOAT", "out.flac", "PCM_24", "24 bit"),
        ("in.wav", "PCM_16", "out.flac", "PCM_16", "16 bit"),
        ("in.ogg", "VORBIS", "out.wav", "PCM_16", "16 bit"),
        ("in.aiff", "PCM_24", "out.wav", "PCM_24", "24 bit"),
    ],
)
def test_bit_depth_is_kept_and_the_line_says_what_became_of_rate_and_channels(
    vocode, voice, name, subtype, target, expected, said
):
    soundfile.write(name, np.stack([voice(0.3, 16000)] * 2, 1), 16000, subtype=subtype)
    result = vocode(name, "-o", target, "--resample")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"  tiny-vocoder; 16,000 → 8,000 Hz, stereo, {said}\n")
    info = soundfile.info(target)
    assert (info.subtype, info.channels, info.samplerate) == (expected, 2, 8000)


def test_the_line_of_a_mel_says_so(vocode, good, vocoder):
    np.save("m.npy", vocoder.mel(load_audio(good, sample_rate=RATE))[0].numpy())
    assert vocode("m.npy", "-o", "out.wav").stdout.endswith("  tiny-vocoder; mel → 8,000 Hz, mono, 16 bit\n")


@pytest.mark.parametrize("save", ["2d.npy", "3d.npy", "float16.npy", "big-endian.npy", "2d.pt", "3d.pt"])
def test_a_mel_gives_what_its_recording_gives(vocode, good, vocoder, save):
    mel = vocoder.mel(load_audio(good, sample_rate=RATE))[0]
    if "3d" in save:
        mel = mel.unsqueeze(0)
    if save.endswith(".pt"):
        torch.save(mel.requires_grad_(), save)
    else:
        np.save(save, mel.numpy().astype({"float16": "f2", "big-endian": ">f4"}.get(save[:-4], "f4")))
    result = vocode(good, save, "-o", "out")
    assert result.exit_code == 0, result.stderr
    of_mel = samples(f"out/{Path(save).stem}.wav")
    assert of_mel.shape[1] == 64 * mel.shape[-1]
    loudest = 300 if "float16" in save else 1
    assert np.abs(of_mel[:, : samples("out/good.wav").shape[1]] - samples("out/good.wav")).max() <= loudest


def test_batches_change_nothing(vocode, save_voice, vocoder):
    for i in range(5):
        save_voice(Path(f"in/{i}.wav"), 0.2 if i != 3 else 0.25, seed=i)
    torch.save(vocoder.mel(load_audio("in/0.wav")), "in/mel.pt")
    sizes, call = [], Vocoder.__call__

    def spy(self, mel, **changes):
        sizes.append(len(mel))
        return call(self, mel, **changes)

    for batch_size in (1, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Vocoder, "__call__", spy)
            assert vocode("in", "-o", f"out{batch_size}", "--batch-size", batch_size).exit_code == 0
    assert sorted(sizes) == [1, 1, 1, 1, 1, 1, 1, 1, 4]  # 0, 1, 2, 4, mel are of one length; 3 is not
    for path in Path("out1").iterdir():
        assert np.abs(samples(path) - samples(f"out4/{path.name}")).max() <= 1


@pytest.mark.parametrize(
    "option",
    [
        ("--steps", 5),
        ("--sampler", "ddpm"),
        ("--corrector-steps", 2),
        ("--corrector-snr", 0.5),
        ("--schedule", "cosine"),
        ("--start", "griffin-lim"),
        ("--seed", 1),
        ("--log-snrs", "-8,0,9"),
    ],
    ids=lambda option: option[0],
)
def test_every_option_of_the_reverse_process_counts(vocode, good, option):
    settings = ("--steps", 3) if option[0] != "--steps" else ()
    settings += ("--corrector-steps", 1) if option[0] == "--corrector-snr" else ()
    vocode(good, "-o", "plain.wav", *settings)
    assert vocode(good, "-o", "changed.wav", *settings, *option).exit_code == 0
    assert not np.array_equal(samples("plain.wav"), samples("changed.wav"))


def test_the_rounds_of_griffin_lim_count_where_it_is_the_start(vocode, good):
    for rounds in (1, 2):
        assert (
            vocode(good, "-o", f"{rounds}.wav", "--start", "griffin-lim", "--griffin-lim-iterations", rounds).exit_code
            == 0
        )
    assert not np.array_equal(samples("1.wav"), samples("2.wav"))


def test_zero_terminal_counts_where_a_schedule_begins_above_noise(vocode, good):
    settings = ("--steps", 3, "--schedule", "wavegrad")
    assert "begins at log-SNR" in vocode(good, "-o", "plain.wav", *settings).stderr
    result = vocode(good, "-o", "changed.wav", *settings, "--zero-terminal")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not np.array_equal(samples("plain.wav"), samples("changed.wav"))


def test_levels_that_are_none_are_refused(vocode, good):
    result = vocode(good, "-o", "out.wav", "--levels", "1;2")
    assert result.exit_code == 2
    assert "'1;2' is not a number from -50 to 50 (log-SNR), as in -2,1,4,8" in result.stderr


def test_the_choices_are_those_of_the_library():
    assert tuple(SAMPLERS) == options.SAMPLERS
    assert tuple(SCHEDULES) == options.SCHEDULES


# --- doing it again ---------------------------------------------------------------------------------------------------


def test_what_is_there_is_skipped_unless_overwritten(vocode, save_voice):
    for name in ("in/a.wav", "in/b.wav"):
        save_voice(Path(name), 0.1)
    vocode("in/a.wav", "-o", "out")
    first = Path("out/a.wav").read_bytes()
    again = vocode("in", "-o", "out", "--seed", 1)
    assert again.exit_code == 0
    assert "in/a.wav -> out/a.wav  skipped" in again.stdout
    assert "1 of 2 skipped; --overwrite" in again.stderr
    assert Path("out/b.wav").exists()
    assert Path("out/a.wav").read_bytes() == first
    assert vocode("in", "-o", "out", "--seed", 1, "--overwrite").stderr == ""
    assert Path("out/a.wav").read_bytes() != first


def test_where_all_is_there_the_model_is_not_needed(vocode, good):
    Path("out").mkdir()
    Path("out/good.wav").write_text("finished")
    assert vocode(good, "-o", "out", model="no/such/model").exit_code == 0


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["a.wav", "a.flac"], ["a.wav", "a.flac", "-o", "out"], "a.wav and a.flac would both become out/a.wav"),
        (["x/a.wav", "y/a.wav"], ["x", "y", "-o", "out"], "x/a.wav and y/a.wav would both become out/a.wav"),
        (["a.wav"], ["a.wav", "-o", "."], "a.wav would be overwritten"),
        (["a.wav"], ["a.wav", "-o", "./a.wav", "--overwrite"], "a.wav would be overwritten"),
        (["in/a.wav", "in/b.flac"], ["in", "-o", "in"], "in/a.wav would be overwritten"),
        (["in/notes.txt"], ["in", "-o", "out"], "in holds no audio and no mels"),
        (["none.jsonl"], ["none.jsonl", "-o", "out"], "none.jsonl lists no recordings"),
    ],
)
def test_clashes_are_named_before_any_work(vocode, save_voice, names, arguments, message):
    for name in names:
        if name.endswith(("txt", "jsonl")):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text("text" if name.endswith("txt") else "\n")
        else:
            save_voice(Path(name), 0.1)
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    result = vocode(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {message}" in result.stderr
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


# --- what is wrong ----------------------------------------------------------------------------------------------------


def write_nan(path):
    audio = np.zeros(2000, np.float32)
    audio[99] = np.nan
    soundfile.write(path, audio, RATE, subtype="FLOAT")


def cut_off(path):
    soundfile.write(path, np.zeros(4000), RATE)
    path.write_bytes(path.read_bytes()[:5000])


def cut_pt(path):
    torch.save(torch.zeros(20, 30), path)
    path.write_bytes(path.read_bytes()[:-300])


class Other:
    """Something that only running code could bring back."""


def write_header(path, text):
    header = text.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100))


def write_huge_header(path):
    write_header(path, "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 1000000000000)}")


WRONG = {
    "text.wav": (lambda path: path.write_text("no audio at all " * 99), "cannot be read"),
    "zero-bytes.wav": (lambda path: path.write_bytes(b""), "cannot be read"),
    "empty.wav": (lambda path: soundfile.write(path, np.zeros(0), RATE), "is empty"),
    "truncated.wav": (cut_off, "is cut off"),
    "short.wav": (
        lambda path: soundfile.write(path, np.zeros(50), RATE),
        "short.wav: audio of 50 samples is too short",
    ),
    "nan.wav": (write_nan, "NaN or infinite"),
    "rate.wav": (
        lambda path: soundfile.write(path, np.zeros(9000), 44100),
        "rate.wav is 44100 Hz.* 8000 Hz.*--resample",
    ),
    "missing.wav": (lambda path: None, "missing.wav does not exist"),
    "missing.npy": (lambda path: None, "missing.npy does not exist"),
    "bins.npy": (lambda path: np.save(path, np.zeros((80, 30))), r"bins.npy: .*\(80, 30\).* n_mels = 20"),
    "transposed.pt": (lambda path: torch.save(torch.zeros(30, 20), path), "transposed.pt: .* is transposed"),
    "nan.pt": (lambda path: torch.save(torch.full((20, 30), torch.nan), path), "nan.pt: .* NaN"),
    "no-frames.npy": (lambda path: np.save(path, np.zeros((20, 0))), "no-frames.npy: .*empty"),
    "integers.npy": (lambda path: np.save(path, np.zeros((20, 30), int)), "integers.npy holds torch.int64"),
    "decibels.npy": (
        lambda path: np.save(path, np.full((20, 30), -60.0)),
        "decibels.npy: .* so it is of another one. `audiodiff mel-match` names it",
    ),
    "batch.npy": (lambda path: np.save(path, np.zeros((2, 20, 30))), r"batch.npy has shape \(2, 20, 30\)"),
    "flat.pt": (lambda path: torch.save(torch.zeros(20), path), r"flat.pt has shape \(20,\)"),
    "dict.pt": (lambda path: torch.save({"mel": torch.zeros(20, 30)}, path), "dict.pt holds a dict"),
    "archive.npy": (lambda path: np.savez(path.open("wb"), np.zeros((20, 30))), "archive.npy holds a NpzFile"),
    "words.npy": (lambda path: np.save(path, np.array([["a"]])), "words.npy is an array of <U1"),
    "objects.npy": (lambda path: np.save(path, np.array([Other()]), allow_pickle=True), "objects.npy cannot be read"),
    "code.pt": (lambda path: torch.save(Other(), path), "code.pt cannot be read as a mel"),
    "huge.npy": (write_huge_header, "huge.npy cannot be read as a mel"),
    "deep.npy": (lambda path: write_header(path, "(" * 3000), "deep.npy cannot be read as a mel"),
    "text.npy": (lambda path: path.write_text("no mel"), "text.npy cannot be read as a mel"),
    "text.pt": (lambda path: path.write_text("no mel"), "text.pt cannot be read as a mel"),
    "cut.pt": (cut_pt, "cut.pt cannot be read as a mel"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_named_and_the_good_ones_are_done(vocode, good, save_voice, name):
    make, message = WRONG[name]
    make(Path(name))
    save_voice(Path("last.wav"), 0.1)
    result = vocode(good, name, "last.wav", "-o", "out")
    assert result.exit_code == 1
    assert re.search(rf"1 of 3 failed:\n  .*{message}", result.stderr), result.stderr
    assert result.stdout.count("\n") == 2
    assert {path.name for path in Path("out").iterdir()} == {"good.wav", "last.wav"}


def test_all_that_is_wrong_in_a_folder_is_listed(vocode, good):
    Path("in").mkdir()
    good.rename("in/good.wav")
    wrong = [name for name in WRONG if not name.startswith("missing")]
    wrong = [name for name in wrong if Path(name).stem not in ("text", "nan") or name.endswith(".wav")]
    for name in wrong:
        WRONG[name][0](Path("in") / name)
    result = vocode("in", "-o", "out", "--batch-size", 3)
    assert result.exit_code == 1
    assert f"{len(wrong)} of {len(wrong) + 1} failed:" in result.stderr
    assert all(f"  in/{name}" in result.stderr for name in wrong)
    assert [path.name for path in Path("out").iterdir()] == ["good.wav"]


def test_resampling_is_an_option(vocode, save_voice):
    save_voice(Path("in.wav"), 0.2, 11025)
    assert vocode("in.wav", "-o", "out").exit_code == 1
    assert vocode("in.wav", "-o", "out", "--resample").exit_code == 0
    assert soundfile.info("out/in.wav").samplerate == RATE
    assert soundfile.info("out/in.wav").frames == -(-soundfile.info("in.wav").frames * RATE // 11025)


def test_a_folder_that_cannot_be_written_is_a_failure_of_its_file(vocode, save_voice):
    for name in ("in/a/x.wav", "in/b/x.wav"):
        save_voice(Path(name), 0.1)
    Path("out").mkdir()
    Path("out/a").write_text("in the way")
    result = vocode("in", "-o", "out")
    assert result.exit_code == 1
    assert "  in/a/x.wav: " in result.stderr
    assert Path("out/b/x.wav").exists()


def test_a_failure_in_synthesis_is_one_of_its_files(vocode, save_voice, monkeypatch):
    for i in range(3):
        save_voice(Path(f"in/{i}.wav"), 0.1 * (1 + i // 2))

    def full(self, mel, **changes):
        if mel.shape[-1] < 20:
            raise RuntimeError("out of memory")
        return call(self, mel, **changes)

    call = Vocoder.__call__
    monkeypatch.setattr(Vocoder, "__call__", full)
    result = vocode("in", "-o", "out", "--batch-size", 2)
    assert result.exit_code == 1
    assert result.stderr.count("unexpected RuntimeError: out of memory") == 2
    assert [path.name for path in Path("out").iterdir()] == ["2.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", 2000, "--schedule", "linear_beta"], "linear_beta has 1000 steps, 2000 were asked for"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available; available: auto, cpu"),
        (["--device", "quantum"], "device 'quantum' is not available"),
    ],
)
def test_an_impossible_setting_is_one_error(vocode, good, save_voice, arguments, message):
    save_voice(Path("other.wav"), 0.1)
    result = vocode(good, "other.wav", "-o", "out", *arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"error: {message}" in result.stderr


def test_a_model_that_is_none_is_one_error(vocode, good, tiny_generator_folder):
    for model, message in (
        ("no/such/model", "no model 'no/such/model'. Give a bundled model"),
        (".", "has no config.json"),
        (tiny_generator_folder, "Use `audiodiff generate`.\n"),
    ):
        result = vocode(good, "-o", "out", model=model)
        assert result.exit_code == 1
        assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["good.wav"],
        ["good.wav", "-o", "out", "--steps", "0"],
        ["good.wav", "-o", "out", "--seed", "-1"],
        ["good.wav", "-o", "out", "--batch-size", "0"],
        ["good.wav", "-o", "out", "--sampler", "euler"],
        ["good.wav", "-o", "out", "--schedule", "linear"],
        ["good.wav", "-o", "out", "--start", "zero"],
        ["good.wav", "more.wav", "-o", "out.wav"],
        [".", "-o", "out.wav"],
        ["good.wav", "-o", "out.mp3"],
        ["good.wav", "-o", "README.md"],
        ["good.wav", "mel.npy", "-o", "out", "--plot"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_does_nothing(vocode, good, arguments):
    Path("README.md").write_text("in the way")
    result = vocode(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert {path.name for path in Path().iterdir()} == {"good.wav", "README.md"}


# --- what else it says and draws --------------------------------------------------------------------------------------


def test_plot_and_score(vocode, good):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    result = vocode(good, "-o", "out", "--plot", "--score")
    assert result.exit_code == 0, result.stderr
    scores = r"  PESQ-WB \S+  ESTOI \S+(  DistillMOS \S+)?  M-STFT \d+\.\d{3}  log-mel \d+\.\d{3}\n"
    assert re.fullmatch(LINE.format("good.wav", "out/good.wav") + scores, result.stdout)
    assert Path("out/good.png").read_bytes().startswith(b"\x89PNG")


def test_several_scored_files_end_with_their_mean(vocode, save_voice):
    save_voice(Path("in/a.wav"), seed=1)
    save_voice(Path("in/b.wav"), seed=2)
    *lines, mean = vocode("in", "-o", "out", "--score").stdout.splitlines()
    scores = [float(re.search(r"M-STFT (\S+)", line)[1]) for line in (*lines, mean)]
    assert mean.startswith("mean of 2  ")
    assert scores[2] == pytest.approx((scores[0] + scores[1]) / 2, abs=1.1e-3)


def test_a_file_without_a_score_is_left_out_of_its_mean():
    clips = [{"pesq_wb": 3.0, "m_stft": 1.0}, {"pesq_wb": math.nan, "m_stft": 2.0}, {"pesq_wb": 4.0, "m_stft": 3.0}]
    assert _mean_scores(clips) == "PESQ-WB 3.500 (1 left out)  M-STFT 2.000"
    assert _mean_scores([{"estoi": math.nan}] * 2) == "ESTOI n/a"


def test_a_silent_file_does_not_spoil_the_mean(vocode, save_voice):
    pytest.importorskip("pystoi")
    save_voice(Path("in/a.wav"), seed=1)
    save_voice(Path("in/b.wav"), seed=2)
    save_audio("in/silent.wav", torch.zeros(1, 8000), 8000)
    *lines, mean = vocode("in", "-o", "out", "--score").stdout.splitlines()
    estoi = [re.search(r"ESTOI (\S+)", line)[1] for line in (*lines, mean)]
    assert estoi[2] == "n/a"
    assert float(estoi[3]) == pytest.approx((float(estoi[0]) + float(estoi[1])) / 2, abs=1.1e-3)
    assert mean.startswith("mean of 3  ")
    assert f"ESTOI {estoi[3]} (1 left out)" in mean


def test_a_manifest_stands_for_its_recordings(vocode, save_voice):
    recordings = [save_voice(Path(f"in/{name}.wav")) for name in ("a", "b", "c")]
    chosen = [Recording(audio=path, seconds=1.0, sample_rate=8000) for path in recordings[:2]]
    write_manifest("lists/test.jsonl", chosen)
    assert vocode("lists/test.jsonl", "-o", "out").exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.wav", "b.wav"]


def test_score_without_the_extra_says_so(vocode, good, monkeypatch):
    monkeypatch.setattr("audiodiff.cli.vocode.find_spec", lambda package: None)
    monkeypatch.setattr("audiodiff.evaluation.scoring.find_spec", lambda package: None)
    result = vocode(good, "-o", "out", "--score")
    assert result.exit_code == 0
    assert "pip install 'audiodiff[eval]'" in result.stderr
    assert re.search(r"real-time factor \S+  tiny-vocoder; .*  M-STFT \S+  log-mel \S+$", result.stdout)


def test_a_mel_has_nothing_to_be_scored_by(vocode):
    np.save("mel.npy", np.full((20, 40), -4.0))
    assert vocode("mel.npy", "-o", "out", "--score").stdout.endswith("no recording to score it against\n")


def test_warnings_are_lines_of_the_log(vocode, good):
    result = vocode(good, "-o", "out", "--schedule", "fibonacci", "--steps", 3)
    assert result.exit_code == 0
    assert re.search(r"^warning: schedule 'fibonacci' with 3 steps begins at log-SNR", result.stderr, re.MULTILINE)
    assert "UserWarning" not in result.stderr


def test_progress_reaches_the_number_of_files(save_voice, vocoder, tmp_path):
    jobs = []
    for i in range(5):
        source = save_voice(tmp_path / f"{i}.wav", 0.1 if i < 4 else 0.2)
        jobs.append(Job(source, tmp_path / "out" / source.name))
    for batch_size in (1, 3):
        calls = []
        options = VocodeOptions(batch_size=batch_size)
        assert all(result.error is None for result in vocode_files(vocoder, jobs, options, calls.append))
        assert sum(calls) == pytest.approx(5)


INTERRUPTED = """
import os, signal, sys
from audiodiff.pipelines import vocode_files
saved = vocode_files.save_audio

def save(*args, **kwargs):
    saved(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGTERM)

vocode_files.save_audio = save
from audiodiff.cli.main import main
from audiodiff.cli.vocode import _mean_scores
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
def test_sigterm_leaves_whole_files_only(save_voice, tiny_vocoder_folder, tmp_path):
    recordings = [save_voice(tmp_path / "in" / f"{i}.wav", 0.3, seed=i) for i in range(6)]
    words = ["vocode", *recordings, "-o", tmp_path / "out", "--model", tiny_vocoder_folder, "--threads", "1"]
    run = subprocess.run([sys.executable, "-c", INTERRUPTED, *map(str, words)], capture_output=True, text=True)
    assert run.returncode == 143, run.stderr
    left = sorted((tmp_path / "out").iterdir())
    assert 1 <= len(left) < 6
    assert all(path.name[0] in "012345" and load_audio(path).shape[-1] > 1000 for path in left)
