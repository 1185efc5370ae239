"""`audiodiff generate --as-dataset`: a balanced, labelled dataset that records how each of its clips was made."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.data.manifest import Recording, read_manifest, write_manifest
from audiodiff.pipelines.generate_files import SEEDS_PER_LABEL


@pytest.fixture
def generate(tiny_generator_folder, tmp_path, monkeypatch):
    """Run `audiodiff generate --model TINY -o out --as-dataset …` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_generator_folder):
        words = ["generate", "--model", str(model), "-o", "out", "--as-dataset", *map(str, arguments)]
        return CliRunner().invoke(main, words)

    return run


def test_every_label_equally_often_with_seed_and_model(generate, tiny_generator_folder):
    result = generate("--count", 2, "--seed", 5)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "out/train.jsonl: 4 clips, 2 of each of 2 labels; 4 new\n"
    recordings = read_manifest("out/train.jsonl")
    assert [recording.label for recording in recordings] == ["yes", "no", "yes", "no"]
    assert [recording.synthesis.seed for recording in recordings] == [5, 5 + SEEDS_PER_LABEL, 6, 6 + SEEDS_PER_LABEL]
    files = [tiny_generator_folder / name for name in ("model.safetensors", "config.json")]
    digest = sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert {recording.synthesis.sha256 for recording in recordings} == {digest}
    assert all(recording.audio.is_file() and recording.seconds == 0.5 for recording in recordings)
    assert '"audio": "yes/yes_5.wav"' in Path("out/train.jsonl").read_text()


def test_a_seed_makes_the_clip_that_generate_makes(generate, tiny_generator_folder):
    generate("--count", 1)
    one = [
        "generate",
        "--model",
        str(tiny_generator_folder),
        "-o",
        "one",
        "--label",
        "no",
        "--seed",
        str(SEEDS_PER_LABEL),
    ]
    assert CliRunner().invoke(main, one).exit_code == 0
    name = f"no_{SEEDS_PER_LABEL}.wav"
    assert Path("out/no", name).read_bytes() == Path("one", name).read_bytes()


def test_it_goes_on_where_it_was_and_grows(generate):
    generate("--count", 2)
    first = Path("out/train.jsonl").read_text()
    Path("out/train.jsonl").unlink()
    Path("out/no/no_1000001.wav").unlink()
    kept = Path("out/yes/yes_0.wav").stat().st_mtime_ns
    assert "1 new" in generate("--count", 2).stdout
    assert Path("out/train.jsonl").read_text() == first
    assert "2 new" in generate("--count", 3).stdout
    assert Path("out/yes/yes_0.wav").stat().st_mtime_ns == kept
    assert "6 new" in generate("--count", 3, "--overwrite").stdout


def test_clips_of_other_settings_are_not_mixed_in(generate):
    generate("--count", 1)
    for option, unlike in (
        (("--steps", 3), "steps"),
        (("--seed", 9), "seed"),
        (("--seconds", 0.2), "seconds"),
        (("--level", -3), "level"),
        (("--raw",), "level"),
    ):
        refused = generate("--count", 1, *option)
        assert (refused.exit_code, f"out holds clips with another {unlike}" in refused.stderr) == (1, True)
    assert generate("--count", 1, "--seconds", 0.2, "--overwrite").exit_code == 0
    assert soundfile.info("out/yes/yes_0.wav").frames == 1600


def test_the_nearest_training_clip_is_noted(generate, save_voice):
    generate("--count", 1)
    clips = [save_voice(Path("real") / f"{seed}.wav", 0.5, seed=seed) for seed in range(2)]
    clips.append(Path("out/yes/yes_0.wav"))  # the model has learnt this one by heart
    write_manifest("real.jsonl", [Recording(audio=clip, seconds=0.5, sample_rate=8000) for clip in clips])
    result = generate("--count", 1, "--training", "real.jsonl")
    assert "1.000 (largest); training clips among themselves" in result.stdout
    lines = [json.loads(line)["synthesis"] for line in Path("out/train.jsonl").read_text().splitlines()]
    assert lines[0]["nearest"].endswith("yes_0.wav")
    assert lines[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert lines[1]["similarity"] < 0.99


def test_what_cannot_be_is_refused(generate, tiny_generator_folder, tiny_vocoder_folder, save_random_model, tmp_path):
    from audiodiff.checkpoint import load_config

    assert generate("--label", "yes").exit_code == 2
    alone = ["generate", "--model", "m", "-o", "out", "--label", "yes", "--training", __file__]
    assert "--training is for --as-dataset" in CliRunner().invoke(main, alone).stderr
    config = load_config(tiny_generator_folder).model_copy(update={"labels": ()})
    free = save_random_model(tmp_path / "free", config)
    assert "has no labels" in generate(model=free).stderr
    assert "Use `audiodiff vocode`.\n" in generate(model=tiny_vocoder_folder).stderr
