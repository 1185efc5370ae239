"""Pictures show the numbers they are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from audiodiff.audio.plots import display_mel
from audiodiff.config import DiffusionConfig, EmbeddingConfig
from audiodiff.diffusion.schedules import SCHEDULES, make_schedule
from audiodiff.errors import DataError
from audiodiff.evaluation.plots import (
    group_curves,
    plot_centres,
    plot_curves,
    plot_radial_basis,
    plot_reverse_process,
    plot_scales,
    plot_schedules,
    plot_score_by_speed,
    plot_score_by_steps,
    read_curves,
)
from audiodiff.networks.embeddings import RadialBasis

RANGE = {"log_snr_min": -6.0, "log_snr_max": 8.0}


def new_axes():
    return Figure().subplots()


def test_radial_basis_functions_are_those_of_the_network():
    with torch.random.fork_rng():
        basis = RadialBasis(EmbeddingConfig(centres=5, initialisation="random"), DiffusionConfig(**RANGE))
    axes = new_axes()
    plot_radial_basis(axes, basis.centres.detach(), basis.spread.detach(), **RANGE)
    curves = [line.get_data() for line in axes.lines if len(line.get_xdata()) > 1]
    levels = torch.tensor(curves[0][0])
    np.testing.assert_allclose(np.stack([y for _, y in curves], 1), basis(levels).detach().numpy(), atol=1e-6)


def test_centres_and_spreads_are_drawn_before_and_after_training():
    config = EmbeddingConfig(centre_positions=[-2.0, 1.0, 4.0], centre_spreads=[1.0, 2.0, 3.0])
    initial, learned = (RadialBasis(config, DiffusionConfig(**RANGE)) for _ in range(2))
    with torch.no_grad():
        learned.centres.add_(torch.tensor([0.0, 0.0, 0.5]))
    axes = new_axes()
    plot_centres(axes, learned, initial)
    *moves, before, after = axes.lines
    assert [line.get_xdata().tolist() for line in moves] == [[-2, -2], [1, 1], [4, 4.5]]
    np.testing.assert_allclose(before.get_xydata(), [[-2, 1], [1, 2], [4, 3]], rtol=1e-6)
    np.testing.assert_allclose(after.get_xydata(), [[-2, 1], [1, 2], [4.5, 3]], rtol=1e-6)
    assert axes.get_title() == "centres moved by 0.17 (mean), 0.5 (most); spreads × 1.00 to 1.00"
    axes = new_axes()
    plot_centres(axes, learned, None)
    assert len(axes.lines) == 1


def test_schedules_and_scales_are_those_of_the_process():
    axes = new_axes()
    plot_schedules(axes, 6, **RANGE)
    assert [line.get_label() for line in axes.lines] == list(SCHEDULES)
    for line in axes.lines:
        np.testing.assert_allclose(line.get_ydata(), make_schedule(line.get_label(), 6, **RANGE)[:-1])
    axes = new_axes()
    plot_scales(axes, **RANGE, marks=make_schedule("uniform", 6, **RANGE))
    signal, noise, dots, _ = axes.lines
    np.testing.assert_allclose(signal.get_ydata() ** 2 + noise.get_ydata() ** 2, 1, atol=1e-6)
    assert len(dots.get_xdata()) == 6


def test_every_state_of_the_reverse_process_has_its_column():
    clean = 0.5 * torch.sin(torch.arange(4000) / 5)
    states = [(-2.0, clean + torch.ones(4000)), (3.0, clean + 0.1), (math.inf, clean)]
    panels = Figure().subplots(2, 3)
    plot_reverse_process(panels, states, display_mel(8000))
    assert [axes.get_title() for axes in panels[0]] == ["start, log-SNR -2.0", "step 1, log-SNR 3.0", "step 2, clean"]
    np.testing.assert_allclose(panels[0, 1].lines[0].get_ydata(), (clean + 0.1).numpy())
    assert len({axes.images[0].get_clim() for axes in panels[1]}) == 1
    with pytest.raises(DataError, match="2 x 3 panels for 2 states"):
        plot_reverse_process(panels, states[:2], display_mel(8000))


def test_curves_are_those_of_tensorboard(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step in range(1, 6):
            writer.add_scalar("training/loss", 1 / step, step)
            writer.add_scalar("scores/pesq_wb", 3 + step / 10, step)
        writer.add_scalar("validation/loss", 0.5, 5)
        writer.add_scalar("validation/loss_at_-2.0", 0.4, 5)
    curves = read_curves(tmp_path)
    assert curves["training/loss"][0] == [1, 2, 3, 4, 5]
    assert curves["training/loss"][1] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert group_curves(curves) == [
        ("loss", ["training/loss", "validation/loss"]),
        ("loss by log-SNR", ["validation/loss_at_-2.0"]),
        ("PESQ-WB", ["scores/pesq_wb"]),
    ]
    axes = new_axes()
    plot_curves(axes, curves, ["training/loss", "validation/loss"], "loss")
    assert axes.lines[0].get_ydata() == pytest.approx(curves["training/loss"][1])
    with pytest.raises(DataError, match="no curve 'x'; there are"):
        plot_curves(axes, curves, ["x"], "loss")
    with pytest.raises(DataError, match="holds no curves"):
        read_curves(tmp_path / "nowhere")


def test_quality_stands_over_the_real_time_factor(evaluation):
    timed = evaluation.model_copy(deep=True)
    for system in timed.systems:
        for file in system.files:
            file.scores["real_time_factor"] = 0.1 if system.name == "good" else 2.0
    axes = new_axes()
    plot_score_by_speed(axes, [timed], "m_stft")
    marks = {text.get_text(): text.xy for text in axes.texts}
    assert marks["good"] == pytest.approx((0.1, evaluation.systems[0].summary("m_stft").mean))
    assert marks["bad"][0] == pytest.approx(2.0)
    assert axes.get_xscale() == "log"
    with pytest.raises(DataError, match=r"good has no real-time factor \(evaluate it with --timings\)"):
        plot_score_by_speed(new_axes(), [evaluation], "m_stft")
    with pytest.raises(DataError, match="no metric 'x'"):
        plot_score_by_speed(new_axes(), [timed], "x")


def test_few_steps_are_drawn_over_steps_and_over_the_real_time_factor():
    curves = {"searched": {4: 3.9, 1: 3.5}, "uniform": {1: 3.0, 4: 3.6}}
    axes = new_axes()
    plot_score_by_steps(axes, curves, "pesq_wb")
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 3.5], [4, 3.9]], [[1, 3.0], [4, 3.6]]]
    assert axes.get_ylabel() == "PESQ-WB, higher is better"
    axes = new_axes()
    plot_score_by_steps(axes, curves, "pesq_wb", {1: 0.05, 4: 0.08})
    assert axes.lines[0].get_xdata().tolist() == [0.05, 0.08]
    assert [text.get_text() for text in axes.texts] == ["1", "4"]
