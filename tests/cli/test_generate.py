"""`audiodiff generate`: names and seeds decide the clips; what cannot be made is refused."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff import Generator
from audiodiff.choices import Level
from audiodiff.cli.main import main
from audiodiff.config import NetworkConfig
from audiodiff.pipelines.generate_files import BATCH_SIZE, GenerateOptions, generate_files

RATE = 8000


@pytest.fixture
def generate(tiny_generator_folder, tmp_path, monkeypatch):
    """Run `audiodiff generate --model TINY …` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_generator_folder):
        return CliRunner().invoke(main, ["generate", "--model", str(model), *map(str, arguments)])

    return run


def samples(path):
    return soundfile.read(path, dtype="int16")[0].astype(int)


def test_clips_are_named_after_label_and_seed(generate):
    result = generate("-o", "out", "--label", "yes", "--count", 3, "--seed", 7)
    assert result.exit_code == 0, result.stderr
    names = ["yes_7.wav", "yes_8.wav", "yes_9.wav"]
    assert sorted(path.name for path in Path("out").iterdir()) == names
    lines = result.stdout.splitlines()
    for line, name in zip(lines, names, strict=True):
        assert re.fullmatch(rf"out/{name}  0\.50 s, synthesised in \d+\.\d\d s, real-time factor \d+\.\d\d\d", line)
    assert soundfile.info("out/yes_7.wav").samplerate == RATE
    assert not np.array_equal(samples("out/yes_7.wav"), samples("out/yes_8.wav"))


def test_a_seed_makes_the_same_clip_whatever_the_count(generate, tiny_generator_folder):
    generate("-o", "many", "--label", "no", "--count", BATCH_SIZE + 2)
    for number in (2, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 1):
        generate("-o", "one", "--label", "no", "--seed", number)
        assert Path(f"many/no_{number}.wav").read_bytes() == Path(f"one/no_{number}.wav").read_bytes()
    clips = Generator.from_pretrained(tiny_generator_folder, "cpu").generate("no", 3, level=-1)
    assert np.abs(samples("many/no_2.wav") - clips[2, 0].numpy() * 32768).max() <= 1


def test_every_clip_is_at_the_level_and_raw_ones_are_as_the_model_made_them(generate, tiny_generator_folder):
    generator = Generator.from_pretrained(tiny_generator_folder, "cpu")
    raw = generator.generate("yes", 3)[:, 0]
    loud = 10 ** (20 / 20) * float(raw.abs().max())
    config = generator.config.whitening.model_copy(update={"gain": (500.0 / loud,)})
    model = Generator(generator.network, generator.config.model_copy(update={"whitening": config}))
    model.save_pretrained("loud")
    for arguments, peak in (([], -1), (["--level", -6], -6), (["--level", "-12dBFS"], -12)):
        result = generate("-o", "out", "--label", "yes", "--count", 3, "--overwrite", *arguments, model="loud")
        assert ("clipped" in result.stderr, ";" in result.stdout) == (False, False)
        for seed in range(3):
            audio, _ = soundfile.read(f"out/yes_{seed}.wav")
            assert 20 * np.log10(np.abs(audio).max()) == pytest.approx(peak, abs=0.01)
            assert abs(audio[0]) <= 1 / 32768 >= abs(audio[-1])
    result = generate("-o", "raw", "--label", "yes", "--count", 3, "--raw", model="loud")
    assert re.search(r"; beyond full scale: peak \d+\.\d dBFS\n", result.stdout)
    expected = model.generate("yes", 3)[:, 0].numpy()
    for seed in range(3):
        assert soundfile.info(f"raw/yes_{seed}.wav").subtype == "FLOAT"
        assert np.array_equal(soundfile.read(f"raw/yes_{seed}.wav", dtype="float32")[0], expected[seed])
    assert np.abs(expected).max() > 1


def test_what_is_not_brought_to_the_level_is_told(generate, tiny_generator_folder):
    generator = Generator.from_pretrained(tiny_generator_folder, "cpu")
    config = generator.config.whitening.model_copy(update={"gain": (1e8,)})
    quiet = Generator(generator.network, generator.config.model_copy(update={"whitening": config}))
    quiet.save_pretrained("quiet")
    result = generate("-o", "out", "--label", "yes", model="quiet")
    assert re.search(r"; silence \(peak -\d+ dBFS\), left as it is\n", result.stdout)
    assert result.exit_code == 0


def test_clips_longer_than_those_of_training_are_warned_of_once(generate):
    result = generate("-o", "out", "--label", "yes", "--seconds", 1, "--count", BATCH_SIZE + 1)
    assert result.stderr.count("clips of 1 s are longer than those this model was trained on (0.5 s)") == 1
    assert generate("-o", "other", "--label", "yes", "--seconds", 0.5).stderr == ""


def test_the_time_of_a_clip_is_its_part_of_the_batch(tiny_generator_folder, tmp_path):
    generator = Generator.from_pretrained(tiny_generator_folder, "cpu")
    targets = {seed: tmp_path / f"{seed}.wav" for seed in range(BATCH_SIZE)}
    started = time.perf_counter()
    clips = list(generate_files(generator, targets, "yes", GenerateOptions(level=Level(-1))))
    assert 0 < sum(clip.synthesis_seconds for clip in clips) < time.perf_counter() - started


@pytest.mark.parametrize("label", ["YES", "Yes", " yes "])
def test_names_count_whatever_the_case_and_files_have_one_name(generate, label):
    generate("-o", "plain", "--label", "yes")
    generate("-o", "out", "--label", label)
    assert [path.name for path in Path("out").iterdir()] == ["yes_0.wav"]
    assert Path("out/yes_0.wav").read_bytes() == Path("plain/yes_0.wav").read_bytes()
    assert "skipped: it exists" in generate("-o", "out", "--label", "yes").stdout


@pytest.mark.parametrize(
    "option",
    [
        ("--steps", 5),
        ("--sampler", "ddpm"),
        ("--corrector-steps", 2),
        ("--corrector-snr", 0.5),
        ("--schedule", "cosine"),
        ("--label", "no"),
    ],
    ids=lambda o: o[0],
)
def test_every_option_counts(generate, option):
    settings = {"--label": "yes", "--steps": 3} | ({"--corrector-steps": 1} if option[0] == "--corrector-snr" else {})
    generate("-o", "plain", *sum(settings.items(), ()))
    generate("-o", "changed", *sum((settings | dict([option])).items(), ()))
    (plain,), (changed,) = Path("plain").iterdir(), Path("changed").iterdir()
    assert not np.array_equal(samples(plain), samples(changed))


@pytest.mark.parametrize("seconds", [0.1, 0.33333, 1])
def test_length(generate, seconds):
    assert generate("-o", "out", "--label", "yes", "--seconds", seconds).exit_code == 0
    assert soundfile.info("out/yes_0.wav").frames == round(seconds * RATE)


def test_what_is_there_is_skipped_unless_overwritten(generate):
    Path("out").mkdir()
    Path("out/yes_1.wav").write_text("finished")
    result = generate("-o", "out", "--label", "yes", "--count", 3)
    assert "out/yes_1.wav  skipped" in result.stdout
    assert "1 of 3 skipped; --overwrite" in result.stderr
    assert Path("out/yes_1.wav").read_text() == "finished"
    assert Path("out/yes_2.wav").exists()
    assert generate("-o", "out", "--label", "yes", "--count", 3, "--overwrite").stderr == ""
    assert len(samples("out/yes_1.wav")) == RATE // 2


def test_a_model_without_labels(generate, save_random_model, tiny_generator_folder, tmp_path):
    from audiodiff.checkpoint import load_config

    config = load_config(tiny_generator_folder).model_copy(
        update={"labels": (), "clip_seconds": None, "network": NetworkConfig(channels=8, layers=2, patch=8)}
    )
    model = save_random_model(tmp_path / "free", config)
    assert generate("-o", "out", "--seconds", 0.2, model=model).exit_code == 0
    assert [path.name for path in Path("out").iterdir()] == ["clip_0.wav"]
    result = generate("-o", "none", model=model)
    assert (result.exit_code, "give seconds" in result.stderr) == (1, True)
    result = generate("-o", "none", "--seconds", 1, "--label", "yes", model=model)
    assert (result.exit_code, "this model has no labels" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "this model needs a label; choose from yes, no"),
        (["--label", "maybe"], "unknown label 'maybe'; the labels of this model are yes, no"),
        (["--label", "../yes"], "unknown label '../yes'; did you mean 'yes'? The labels of this model are yes, no"),
        (["--label", "yse"], "unknown label 'yse'; did you mean 'yes'? The labels of this model are yes, no"),
        (["--label", "yes", "--seconds", 1e-5], "no sample"),
        (["--label", "yes", "--steps", 1001, "--schedule", "linear_beta"], "linear_beta has 1000 steps"),
        (["--label", "yes", "--device", "cuda:99"], "device 'cuda:99' is not available"),
    ],
)
def test_what_cannot_be_made_is_refused(generate, arguments, message):
    result = generate("-o", "out", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {message}" in result.stderr or message in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize("label", [[], ["--label", "yes"]])
def test_a_vocoder_is_no_generator(generate, tiny_vocoder_folder, label):
    result = generate("-o", "out", *label, model=tiny_vocoder_folder)
    assert (result.exit_code, "Use `audiodiff vocode`.\n" in result.stderr) == (1, True)


@pytest.fixture
def told_model(save_random_model, tiny_generator_folder, tmp_path):
    """Give a model that knows two speakers and a vector, and can do without."""
    config = Generator.from_pretrained(tiny_generator_folder, "cpu").config
    more = {"speakers": ("Ann B.", "bob"), "vector_width": 3, "condition_dropout": 0.1}
    np.save(tmp_path / "warm.npy", np.array([5.0, -3.0, 1.0]))
    np.save(tmp_path / "short.npy", np.zeros(2))
    return save_random_model(tmp_path / "told", config.model_copy(update=more))


def test_speaker_vector_and_guidance_count(generate, told_model):
    options = [
        [],
        ["--label", "yes"],
        ["--label", "yes", "--speaker", "Ann B."],
        ["--label", "yes", "--speaker", "Ann B.", "--vector", "warm.npy"],
        ["--label", "yes", "--guidance", 3],
        ["--label", "yes", "--guidance", 3, "--guidance-rescale", 0.7],
        ["--label", "yes", "--guidance", 3, "--guidance-interval", -20, 0],
    ]
    names = ["clip", "yes", "yes_Ann-B.", "yes_Ann-B._warm", "yes", "yes", "yes"]
    made = []
    for i, (arguments, name) in enumerate(zip(options, names, strict=True)):
        result = generate("-o", i, "--raw", *arguments, model=told_model)  # rescaling may change the level alone
        assert result.exit_code == 0, result.stderr
        made.append(Path(f"{i}/{name}_0.wav").read_bytes())
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speaker", "eve"], "unknown speaker 'eve'; the speakers of this model are Ann B., bob"),
        (["--vector", "short.npy"], "the model takes 3 numbers"),
        (["--guidance", 2], "guidance steers towards"),
    ],
)
def test_what_the_model_does_not_know_is_refused(generate, told_model, arguments, message):
    result = generate("-o", "out", *arguments, model=told_model)
    assert (result.exit_code, message in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--label", "yes"],
        ["-o", "out", "--guidance", -1],
        ["-o", "out", "--guidance-rescale", 2],
        ["-o", "out", "--vector", "missing.npy"],
        ["-o", "out", "--count", 0],
        ["-o", "out", "--label", "yes", "--level", "loud"],
        ["-o", "out", "--label", "yes", "--level", 3],
        ["-o", "out", "--label", "yes", "--level", -3, "--raw"],
        ["-o", "out", "--seconds", 0],
        ["-o", "out", "--seconds", "long"],
        ["-o", "file.txt"],
        ["-o", "out", "--start", "griffin-lim"],
    ],
)
def test_wrong_usage_is_2(generate, arguments):
    Path("file.txt").write_text("in the way")
    assert generate(*arguments).exit_code == 2
