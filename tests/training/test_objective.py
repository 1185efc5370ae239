"""The loss is the mean squared error it should be; of a band-limited recording only what lies in its band counts."""

import math
from itertools import chain, combinations

import pytest
import torch

from audiodiff.config import DiffusionConfig, ModelConfig, NetworkConfig, TrainingConfig, WhiteningConfig
from audiodiff.data.crops import Example
from audiodiff.data.dataset import Replica
from audiodiff.diffusion.likelihood import noise_error, variance_loss
from audiodiff.diffusion.process import alpha_sigma, diffuse
from audiodiff.training.objective import Batch, LossWeighting, Objective, band_limited, band_limited_mse
from audiodiff.training.randomness import draw_noise, draw_seeds, mel_noise

RATE = 8000
CPU = torch.device("cpu")


def tone(frequency, n_samples=2048):
    return torch.sin(2 * math.pi * frequency / RATE * torch.arange(n_samples)).view(1, 1, -1)


def example(n_clips=3, n_frames=26, bandwidth=math.inf, n_labels=0):
    """Noise, with three blocks of context at either end."""
    audio = 0.1 * torch.randn(n_clips, 1, (n_frames + 6) * 64, generator=torch.Generator().manual_seed(0))
    label, none = torch.full((n_clips,), n_labels), torch.zeros(n_clips, dtype=torch.int64)
    return Example(audio, label, torch.full((n_clips,), bandwidth), none, torch.zeros(n_clips, 0))


@pytest.mark.parametrize("n_samples", [512, 511])
def test_full_band_error_is_the_mean_square(n_samples):
    left, right = torch.randn(2, 4, 2, n_samples, generator=torch.Generator().manual_seed(1))
    error = band_limited_mse(left, right, torch.full((4,), math.inf), RATE)
    torch.testing.assert_close(error, (left - right).square().mean((1, 2)))


@pytest.mark.parametrize("pairing", ["midpoint", "frame"])
def test_every_block_has_one_frame_however_frames_and_blocks_are_paired(pairing, tiny_model_config):
    mel = tiny_model_config.mel.model_copy(update={"centre": "frame", "pairing": pairing})
    config = tiny_model_config.model_copy(update={"mel": mel, "whitening": WhiteningConfig(kind="energy")})
    batch = Objective(config, CPU).prepare(example())
    assert batch.clean.shape == (3, 1, 26 * 64)
    assert batch.mel.shape == (3, 20, 26)


def test_an_error_in_the_empty_band_does_not_count():
    target = torch.zeros(1, 1, 2048)
    above = band_limited_mse(tone(3000.0), target, torch.tensor([2000.0]), RATE)
    below = band_limited_mse(tone(1000.0), target, torch.tensor([2000.0]), RATE)
    assert float(above) < 1e-8
    assert float(below) == pytest.approx(0.5 * 2, rel=2e-3)  # the power of a tone over half the band


def test_a_white_error_has_the_same_loss_at_any_bandwidth():
    noise = torch.randn(1, 1, 2**16, generator=torch.Generator().manual_seed(2))
    for band in (1000.0, 2000.0, 3000.0):
        error = band_limited_mse(noise, torch.zeros_like(noise), torch.tensor([band]), RATE)
        assert float(error) == pytest.approx(1.0, abs=0.03)


def test_only_the_limited_clips_of_a_batch_are_limited():
    prediction = tone(3000.0).expand(2, -1, -1)
    error = band_limited_mse(prediction, torch.zeros_like(prediction), torch.tensor([2000.0, math.inf]), RATE)
    assert error[0] < 1e-8
    assert float(error[1]) == pytest.approx(0.5, rel=1e-3)


def test_no_gradient_flows_from_the_empty_band(tiny_model_config):
    objective = Objective(tiny_model_config, CPU)
    batch = objective.prepare(example(1, bandwidth=1000.0))
    log_snr, noise = draw_noise(batch, tiny_model_config.diffusion, 0, 0)
    error = tone(3000.0, 26 * 64).requires_grad_()
    (gradient,) = torch.autograd.grad(
        objective.loss(lambda x, *_: noise + 0.1 * error, batch, log_snr, noise).sum(), error
    )
    assert float(gradient.abs().max()) < 1e-6


def weighted(**settings):
    return LossWeighting(TrainingConfig(**settings), "epsilon")


@pytest.mark.parametrize("n_samples", [2**16, 2**16 - 1])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_white_error_has_the_same_loss_at_any_spectral_weighting(n_samples, exponent):
    curve = weighted(spectral_weighting=exponent).by_frequency
    noise = torch.randn(4, 1, n_samples, generator=torch.Generator().manual_seed(2))
    for band in (1000.0, math.inf):
        error = band_limited_mse(noise, torch.zeros_like(noise), torch.full((4,), band), RATE, curve)
        assert float(error.mean()) == pytest.approx(1.0, abs=0.03)


def test_an_error_counts_by_how_narrow_the_band_is_in_which_the_ear_hears_it():
    # Glasberg and Moore 1990: 35.5 Hz wide at 100 Hz, 240.6 Hz at 2 kHz
    for exponent in (0.5, 1.0):
        curve = weighted(spectral_weighting=exponent).by_frequency
        low, high = (
            band_limited_mse(tone(f, 8000), torch.zeros(1, 1, 8000), torch.tensor([math.inf]), RATE, curve)
            for f in (100.0, 2000.0)
        )
        assert float(low / high) == pytest.approx((240.6 / 35.5) ** exponent, rel=0.01)


def test_weightings_of_levels_and_frequencies_and_the_band_of_a_recording_combine(tiny_model_config):
    objective = Objective(tiny_model_config, CPU)
    batches = [objective.prepare(example(bandwidth=band)) for band in (math.inf, 2000.0)]
    log_snr, noise = torch.tensor([-2.0, 1.0, 4.0]), torch.randn_like(batches[0].clean)

    def predict(*_):
        return noise + tone(500.0, noise.shape[-1])

    rates = weighted(loss_weighting="min-snr").by_noise_level(log_snr)
    assert rates.tolist() == pytest.approx([1.0, 1.0, 5 * math.exp(-4)])
    losses = []
    for batch in batches:
        for spectral in (0.0, 1.0):
            plain, both = (
                objective.loss(predict, batch, log_snr, noise, weighted(spectral_weighting=spectral, **other))
                for other in ({}, {"loss_weighting": "min-snr"})
            )
            torch.testing.assert_close(both, plain * rates)
            losses.append(plain)
    assert torch.equal(losses[0], objective.loss(predict, batches[0], log_snr, noise))  # weighs nothing
    assert all(((one - other).abs() > 1e-3).all() for one, other in combinations(losses, 2))


def test_gamma_says_from_where_on_levels_weigh_less():
    log_snr = torch.tensor([2.5])
    weights = [weighted(loss_weighting="min-snr", min_snr_gamma=gamma).by_noise_level(log_snr) for gamma in (1, 5, 20)]
    assert torch.cat(weights).tolist() == pytest.approx([math.exp(-2.5), 5 * math.exp(-2.5), 1.0])


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_loss_is_zero_for_the_right_answer_and_nothing_else(tiny_model_config, target):
    config = tiny_model_config.model_copy(update={"diffusion": DiffusionConfig(target=target)})
    objective = Objective(config, CPU)
    batch = objective.prepare(example())
    log_snr, noise = draw_noise(batch, config.diffusion, 0, 0)
    alpha, sigma = (scale.view(-1, 1, 1) for scale in alpha_sigma(log_snr))
    answers = {"epsilon": noise, "x0": batch.clean, "v": alpha * noise - sigma * batch.clean}
    losses = {
        name: objective.loss(lambda *_, answer=answer: answer, batch, log_snr, noise)
        for name, answer in answers.items()
    }
    assert losses[target].shape == (3,)
    assert float(losses.pop(target).max()) < 1e-10
    assert all(float(loss.mean()) > 0.01 for loss in losses.values())


def test_network_is_given_the_noisy_signal_and_its_conditions(tiny_model_config):
    config = tiny_model_config.model_copy(update={"labels": ("a", "b")})
    objective = Objective(config, CPU)
    batch = objective.prepare(example(n_labels=1))
    log_snr, noise = draw_noise(batch, config.diffusion, 0, 0)
    given = []
    objective.loss(lambda *arguments: given.extend(arguments) or noise, batch, log_snr, noise)
    x, level, mel, conditions = given
    alpha, sigma = (scale.view(-1, 1, 1) for scale in alpha_sigma(log_snr))
    torch.testing.assert_close(x, alpha * batch.clean + sigma * noise)
    assert torch.equal(level, log_snr)
    assert x.shape == (3, 1, 26 * 64)
    assert mel.shape == (3, 20, 26)
    assert conditions.label.tolist() == [1, 1, 1]
    assert conditions[1:] == (None, None)


def test_a_model_without_mel_or_labels_is_given_none():
    config = ModelConfig(sample_rate=RATE, network=NetworkConfig(patch=8))
    batch = Objective(config, CPU).prepare(example())
    assert (batch.mel, batch.global_conditions, batch.bandwidth) == (None, None, None)


def test_mels_of_both_centrings_have_one_frame_per_block(tiny_model_config):
    for centre in ("hop", "frame"):
        mel = tiny_model_config.mel.model_copy(update={"centre": centre})
        batch = Objective(tiny_model_config.model_copy(update={"mel": mel}), CPU).prepare(example())
        assert batch.mel.shape == (3, 20, 26)
        assert batch.clean.shape == (3, 1, 26 * 64)


@pytest.mark.parametrize("centre", ["hop", "frame"])
@pytest.mark.parametrize("whitening", ["energy", "spectral"])
def test_a_crop_is_whitened_as_the_whole_utterance_is(tiny_model_config, centre, whitening):
    mel = tiny_model_config.mel.model_copy(update={"centre": centre})
    update = {"mel": mel, "whitening": WhiteningConfig(kind=whitening, exponent=0.5)}
    config = tiny_model_config.model_copy(update=update)
    whole = example(1, n_frames=60)
    crop = whole._replace(audio=whole.audio[..., 20 * 64 : 52 * 64])
    objective = Objective(config, CPU)
    ours, theirs = objective.prepare(crop), objective.prepare(whole)
    torch.testing.assert_close(ours.mel, theirs.mel[..., 20:46], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.clean, theirs.clean[..., 20 * 64 : 46 * 64], atol=1e-4, rtol=1e-4)


def test_bf16_reaches_the_network_and_not_the_loss(tiny_model_config):
    seen = []

    def predict(x, *_):
        seen.append((x[0] @ x[0].T).dtype)
        return x

    for bf16 in (False, True):
        objective = Objective(tiny_model_config, CPU, bf16=bf16)
        batch = objective.prepare(example())
        log_snr, noise = draw_noise(batch, tiny_model_config.diffusion, 0, 0)
        assert objective.loss(predict, batch, log_snr, noise).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("changes", [{}, {"log": "log10", "multiplier": 0.2, "offset": 0.8}, {"power": 2}], ids=str)
def test_noise_on_the_mel_is_of_so_many_decibels(tiny_model_config, changes):
    convention = tiny_model_config.mel.model_copy(update=changes)
    objective = Objective(tiny_model_config.model_copy(update={"mel": convention}), CPU)
    plain, noisy = (objective.prepare(example(16), noise) for noise in (None, mel_noise(3.0, 0, 5)))
    difference = noisy.mel - plain.mel
    # what a change of the audio's level by 3 dB does to a mel of this convention
    louder = objective.prepare(example(16)._replace(audio=example(16).audio * 10 ** (3 / 20))).mel - plain.mel
    assert float(difference.std()) == pytest.approx(float(louder.mean()), rel=0.05)
    assert abs(float(difference.mean())) < 0.1 * float(louder.mean())
    assert not torch.equal(noisy.clean, plain.clean)  # whitened by what the network is given, as in synthesis


def test_noise_on_the_mel_depends_on_seed_and_step_and_respects_the_floor(tiny_model_config):
    objective = Objective(tiny_model_config, CPU)
    silence = example()._replace(audio=torch.zeros_like(example().audio))
    mels = [objective.prepare(silence, mel_noise(3.0, *place)).mel for place in ((0, 5), (0, 5), (1, 5), (0, 6))]
    assert torch.equal(mels[0], mels[1])
    assert not torch.equal(mels[0], mels[2])
    assert not torch.equal(mels[0], mels[3])
    assert float(mels[0].min()) == pytest.approx(math.log(1e-5))
    assert float(mels[0].max()) > math.log(1e-5) + 0.5


def test_a_team_draws_what_one_process_draws_for_a_batch_as_large(tiny_model_config):
    whole = Batch(torch.zeros(6, 1, 100), None, None, None)
    part = Batch(torch.zeros(2, 1, 100), None, None, None)
    replicas = [Replica(rank, 3) for rank in range(3)]
    drawn = [draw_noise(part, DiffusionConfig(), 1, 2, replica) for replica in replicas]
    for together, alone in zip(zip(*drawn, strict=True), draw_noise(whole, DiffusionConfig(), 1, 2), strict=True):
        assert torch.equal(torch.cat(together), alone)
    assert list(chain(*(draw_seeds(2, 1, 2, replica) for replica in replicas))) == draw_seeds(6, 1, 2)
    mel = torch.zeros(6, 20, 7)
    noisy = [mel_noise(1.0, 1, 2, replica)(mel[:2], tiny_model_config.mel) for replica in replicas]
    assert torch.equal(torch.cat(noisy), mel_noise(1.0, 1, 2)(mel, tiny_model_config.mel))


def test_seed_and_step_alone_decide_the_draw():
    batch = Batch(torch.zeros(16, 1, 100), None, None, None)
    config = DiffusionConfig()

    def drawn(seed, step):
        return torch.cat([field.flatten() for field in draw_noise(batch, config, seed, step)])

    assert torch.equal(drawn(3, 7), drawn(3, 7))
    others = [drawn(*place) for place in ((3, 7), (3, 8), (4, 7), (7, 3), (-3, 7), (2**70, 7))]
    assert not any(torch.equal(others[i], others[j]) for i in range(len(others)) for j in range(i))
    log_snr, noise = draw_noise(batch, config, 3, 7)
    assert sorted(((log_snr - config.log_snr_min) / (18 / 16)).long().tolist()) == list(range(16))
    assert abs(float(noise.std()) - 1) < 0.06


@pytest.mark.parametrize("bandwidth", [math.inf, 1500.0])
@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_a_learned_variance_adds_its_own_loss_and_leaves_the_mean_to_the_mse(tiny_model_config, target, bandwidth):
    losses, gradients = {}, {}
    for variance in ("fixed", "learned"):
        diffusion = DiffusionConfig(target=target, variance=variance)
        objective = Objective(tiny_model_config.model_copy(update={"diffusion": diffusion}), CPU)
        batch = objective.prepare(example(2, bandwidth=bandwidth))
        log_snr, noise = draw_noise(batch, diffusion, 0, 0)
        mean, second = torch.zeros_like(batch.clean), torch.full_like(batch.clean, 0.4)
        outputs = [mean.requires_grad_()] + [second.requires_grad_()] * (variance == "learned")
        losses[variance] = objective.loss(lambda *_, o=outputs: torch.cat(o, dim=1), batch, log_snr, noise)
        gradients[variance] = torch.autograd.grad(losses[variance].sum(), outputs)
    assert torch.equal(gradients["learned"][0], gradients["fixed"][0])
    assert bool(gradients["learned"][1].any())
    added = losses["learned"] - losses["fixed"]
    x = diffuse(batch.clean, noise, log_snr)
    error = noise_error(torch.zeros_like(x), x, noise, log_snr, diffusion)
    error = error if math.isinf(bandwidth) else band_limited(error, torch.full((2,), bandwidth), RATE)
    torch.testing.assert_close(added, variance_loss(second, error, log_snr, diffusion), rtol=1e-2, atol=1e-4)
