"""`audiodiff plot` writes pictures of what it is given, and every option changes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from audiodiff.cli.main import main


@pytest.fixture
def plot(tmp_path, monkeypatch, save_voice):
    """Run `audiodiff plot …` in a folder with `a.wav`."""
    monkeypatch.chdir(tmp_path)
    save_voice(Path("a.wav"), 0.5)
    return lambda *arguments: CliRunner().invoke(main, ["plot", *map(str, arguments)])


@pytest.mark.parametrize("what", [("waveform", "a.wav"), ("mel", "a.wav"), ("rbf",), ("schedule",)])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written(plot, what, suffix):
    result = plot(*what, "-o", f"deep/x.{suffix}")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"deep/x.{suffix}\n"
    if suffix == "png":
        assert imread("deep/x.png")[..., :3].std() > 0.05
    else:
        assert "</svg>" in Path("deep/x.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        ("mel", "a.wav", "--mel", "hifigan-22k"),
        ("schedule", "--steps", 5),
        ("schedule", "--log-snr-min", -4),
        ("schedule", "--log-snr-max", 4),
        ("schedule", "cosine"),
    ],
    ids=lambda changed: " ".join(map(str, changed)),
)
def test_every_option_counts(plot, changed):
    plain = changed[:2] if changed[0] == "mel" else changed[:1]
    assert plot(*plain, "-o", "plain.png").exit_code == 0
    assert plot(*changed, "-o", "changed.png").exit_code == 0
    assert Path("plain.png").read_bytes() != Path("changed.png").read_bytes()


def test_steps_of_the_reverse_process_are_drawn(plot, tiny_vocoder_folder):
    result = plot("steps", "a.wav", "--model", tiny_vocoder_folder, "-o", "x.png")
    assert result.exit_code == 0, result.output
    assert imread("x.png")[..., :3].std() > 0.05


def test_every_option_of_the_reverse_process_counts(plot, tiny_vocoder_folder, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(
        "audiodiff.evaluation.plots.plot_reverse_process", lambda _, states, __: drawn.append(str(states))
    )
    monkeypatch.setattr("audiodiff.cli.plot._save", lambda figure, output: None)
    options = [("--sampler", "ddpm"), ("--schedule", "cosine"), ("--seed", 1), ("--seconds", 0.2)]
    for option in [(), ("--steps", 4), *options, ("--start", "griffin-lim")]:
        steps = () if option[:1] == ("--steps",) else ("--steps", 3)
        result = plot("steps", "a.wav", "--model", tiny_vocoder_folder, *steps, *option, "-o", "x.png")
        assert result.exit_code == 0, result.output
    assert len(set(drawn)) == len(drawn) == 7


def test_the_last_state_is_what_the_vocoder_makes(tiny_vocoder_folder, plot):
    import torch

    from audiodiff import Vocoder, load_audio
    from audiodiff.pipelines.reverse_states import reverse_states

    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", dtype="fp32")
    audio = load_audio("a.wav")
    states = []
    clean = reverse_states(vocoder, audio, 3, lambda *state: states.append(state), steps=4)
    assert [level for level, _ in states] == sorted(level for level, _ in states)
    assert [tuple(state.shape) for _, state in states] == [tuple(clean.shape)] * 4
    torch.testing.assert_close(clean, vocoder(vocoder.mel(audio), seed=3, steps=4), rtol=0, atol=1e-5)


def test_training_curves_of_one_run_and_of_two(plot):
    from torch.utils.tensorboard import SummaryWriter

    for run in ("one", "two"):
        with SummaryWriter(f"{run}/tensorboard") as writer:
            for step in range(4):
                writer.add_scalar("training/loss", 1 / (step + 1), step)
            writer.add_scalar("validation/loss", 0.5, 3)
    for runs in (("one",), ("one", "two")):
        assert plot("training", *runs, "-o", f"{len(runs)}.png").exit_code == 0
    assert Path("1.png").read_bytes() != Path("2.png").read_bytes()
    assert "holds no curves" in plot("training", ".", "-o", "x.png").stderr


def test_losses_by_noise_level_of_a_run_on_a_grid_and_of_one_on_all_levels(plot, tiny_run_config):
    import yaml
    from torch.utils.tensorboard import SummaryWriter

    for run, n_levels in (("grid", 3), ("all", 0)):
        document = tiny_run_config.model_dump(mode="json")
        document["model"]["diffusion"]["n_levels"] = n_levels
        with SummaryWriter(f"{run}/tensorboard") as writer:
            for level, loss in ((-8.0, 0.1), (-3.5, 0.4), (1.0, 0.2), (5.5, 0.6), (10.0, 0.3)):
                writer.add_scalar(f"validation/loss_at_{level:+.1f}", 9.0, 4)
                writer.add_scalar(f"validation/loss_at_{level:+.1f}", loss, 8)
        Path(run, "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    result = plot("loss-by-noise-level", "grid", "all", "-o", "x.png")
    assert result.stdout.splitlines() == [
        "grid: step 8, mean 0.3200; at the training levels 0.2000, between them 0.5000, "
        "+0.3000 relative to the mean of their neighbours",
        "all: step 8, mean 0.3200",
        "x.png",
    ]
    assert plot("loss-by-noise-level", "all", "-o", "y.png").exit_code == 0
    assert Path("x.png").read_bytes() != Path("y.png").read_bytes()


def test_a_run_without_a_validation_has_no_levels(plot, tiny_run_config):
    import yaml
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter("run/tensorboard") as writer:
        writer.add_scalar("training/loss", 1.0, 1)
    Path("run/config.yaml").write_text(yaml.safe_dump(tiny_run_config.model_dump(mode="json")), encoding="utf-8")
    assert "has not been validated yet" in plot("loss-by-noise-level", "run", "-o", "x.png").stderr


def test_quality_from_stored_results(plot):
    from audiodiff.evaluation.results import Evaluation, FileResult, SystemResult, write_json

    scores = {"m_stft": 1.0, "log_mel": 0.2, "real_time_factor": 0.1}
    file = FileResult(name="x", generated="x", reference="x", seconds=1, sample_rate=8000, scores=scores)
    system = SystemResult(name="ours", path="x", files=[file])
    document = Evaluation(created="now", reference="x", metrics=list(scores), settings={}, systems=[system])
    write_json(Path("x.json"), document)
    assert plot("quality", "x.json", "--metric", "m_stft", "-o", "a.png").exit_code == 0
    assert plot("quality", "x.json", "--metric", "log_mel", "-o", "b.png").exit_code == 0
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes()
    assert "ours has no PESQ-WB" in plot("quality", "x.json", "-o", "c.png").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mel", "a.wav", "--mel", "none", "-o", "x.png"), "no mel convention 'none'; choose from hifigan-22k"),
        (("waveform", "a.wav", "-o", "x.bmp"), "x.bmp: use .png, .svg or .pdf"),
        (("schedule", "--log-snr-min", 20, "-o", "x.png"), "must be below --log-snr-max"),
        (("waveform", "none.wav", "-o", "x.png"), "does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_said(plot, arguments, message):
    result = plot(*arguments)
    assert result.exit_code != 0
    assert message in result.stderr
    assert not list(Path().glob("x.*"))
