"""What lmnt-com/diffwave's own package computes, in inference and in training, unmodified."""

import math
import sys
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from audiodiff.config import TrainingConfig
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import sample_log_snr
from audiodiff.interop import convert_state_dict
from audiodiff.networks.embeddings import DiscreteSteps
from audiodiff.pipelines import Vocoder
from audiodiff.training.objective import Batch, LossWeighting, Objective, predict_with
from audiodiff.training.optimiser import learning_rate, make_optimiser, set_learning_rate

N_FRAMES = 12
SMALL = {"residual_channels": 8, "residual_layers": 4, "dilation_cycle_length": 3}


@pytest.fixture
def diffwave():
    """Modules of the package; torchaudio, which only its main needs, may be absent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
        pytest.importorskip("diffwave.model")
        yield SimpleNamespace(**{name: import_module(f"diffwave.{name}") for name in ("model", "params", "inference")})


def test_its_own_inference_clamps_and_clamping_matches_it(diffwave, monkeypatch):
    """Unmodified inference of the package, fed our noise; a network of random weights goes beyond full scale."""
    params = diffwave.params.AttrDict(diffwave.params.params | SMALL)
    torch.manual_seed(0)
    theirs = diffwave.model.DiffWave(params).eval()
    torch.nn.init.normal_(theirs.output_projection.weight)
    mel = torch.rand(80, N_FRAMES, generator=torch.Generator().manual_seed(8))
    noise = partial(position_noise, [3], n_samples=N_FRAMES * 256)
    monkeypatch.setitem(diffwave.inference.models, "here", theirs)
    draws = iter([0, 1, 2, 3, 4, 5])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise(next(draws))[:, 0])
    monkeypatch.setattr(torch, "randn_like", lambda _: noise(next(draws))[:, 0])
    expected, rate = diffwave.inference.predict(mel, "here", device=torch.device("cpu"), fast_sampling=True)
    monkeypatch.undo()
    assert float(expected.abs().max()) == 1
    ours, config = convert_state_dict(theirs.state_dict(), params=dict(params))
    vocoder = Vocoder(ours, config, "fp32")
    clamped, plain = vocoder(mel, seed=3, clamp=True), vocoder(mel, seed=3)
    error = (clamped - expected[0]).square().mean() / expected.square().mean()
    assert 10 * math.log10(float(error)) < -60
    assert rate == vocoder.sample_rate
    assert float(plain.abs().max()) > 1.01
    chunks = torch.cat(list(vocoder.stream([mel[:, :7], mel[:, 7:]], seed=3, clamp=True)), dim=-1)
    torch.testing.assert_close(chunks, clamped, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "n_steps", "n_parameters"), [(SMALL, 20, None), pytest.param({}, 200, 2_619_971, marks=pytest.mark.slow)]
)
def test_training_follows_the_package_step_by_step(diffwave, sizes, n_steps, n_parameters):
    """Steps of Adam on the same batches: the losses agree, with its L1 loss and its discrete noise levels."""
    params = diffwave.params.AttrDict(diffwave.params.params | sizes)
    torch.manual_seed(0)
    theirs = diffwave.model.DiffWave(params)
    torch.nn.init.normal_(theirs.output_projection.weight)  # it starts at zero, and with it every gradient but its own
    ours, config = convert_state_dict(theirs.state_dict(), params=dict(params))
    assert n_parameters in (None, sum(weight.numel() for weight in ours.parameters()))
    training = TrainingConfig(
        loss="l1", learning_rate=2e-4, learning_rate_schedule="constant", warmup_steps=0, betas=(0.9, 0.999)
    )
    weighting = LossWeighting(training, config.diffusion.target)
    objective, predict = Objective(config, torch.device("cpu")), predict_with(ours.train())
    optimisers = torch.optim.Adam(theirs.parameters(), lr=2e-4), make_optimiser(ours.parameters(), training)
    set_learning_rate(optimisers[1], learning_rate(0, training))
    noise_level = torch.from_numpy(np.cumprod(1 - np.array(params.noise_schedule)).astype(np.float32))
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(n_steps):
        clean = 0.3 * torch.randn(2, 1, N_FRAMES * 256, generator=generator)
        mel = torch.rand(2, 80, N_FRAMES, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        log_snr = sample_log_snr(2, config.diffusion, generator)
        step = DiscreteSteps(config.network.embedding.betas)(log_snr).round().long()
        scale = noise_level[step].view(-1, 1)
        noisy = scale.sqrt() * clean[:, 0] + (1 - scale).sqrt() * noise[:, 0]
        theirs_loss = functional.l1_loss(noise[:, 0], theirs(noisy, mel, step).squeeze(1))
        ours_loss = objective.loss(predict, Batch(clean, mel, None, None), log_snr, noise, weighting).mean()
        for optimiser, loss in zip(optimisers, (theirs_loss, ours_loss), strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses.append((theirs_loss.item(), ours_loss.item()))
    expected, found = map(torch.tensor, zip(*losses, strict=True))
    torch.testing.assert_close(found[:20], expected[:20], rtol=0, atol=1e-5)
    late = slice(n_steps // 2, None)  # rounding grows from step to step, what is learned is the same
    assert found[late].mean().item() == pytest.approx(expected[late].mean().item(), rel=0.01)
    error = (found - expected).abs()
    print(f"first 20 within {float(error[:20].max()):.1e}, all within {float(error.max()):.1e}")
    print(f"means of the second half: {float(found[late].mean()):.4f}, theirs {float(expected[late].mean()):.4f}")
    assert expected[-5:].mean() < 0.99 * expected[:5].mean()
