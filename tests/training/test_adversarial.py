import math

import pytest
import torch

from audiodiff.config import TrainingConfig
from audiodiff.training.adversarial import (
    AdversarialTraining,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)

RATE = 8000


@pytest.fixture
def adversarial():
    training = TrainingConfig(adversarial_weight=0.5, feature_matching_weight=2.0, discriminator_learning_rate=1e-3)
    return AdversarialTraining(training, RATE, torch.device("cpu"), bf16=False)


def clips(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n, 2048, generator=generator)


def tones(n=2):
    return 0.1 * torch.sin(torch.arange(2048) * torch.linspace(0.2, 0.4, n).unsqueeze(1))


def test_discriminators_learn_to_tell_noise_from_tones(adversarial):
    before = float(adversarial.step(clips(), tones(), None))
    for seed in range(1, 8):
        after = float(adversarial.step(clips(seed=seed), tones(), None))
    assert after < 0.7 * before
    real, generated = adversarial.judge(tones(), None), adversarial.judge(clips(seed=9), None)
    assert float(adversarial_loss(generated)) > float(adversarial_loss(real))
    assert float(discriminator_loss(real, generated)) < float(discriminator_loss(generated, real))


def test_gradients_are_weighed_by_their_norms(adversarial):
    generated, reference = clips().requires_grad_(), tones()
    only = {}
    for name, weights in {"distance": (0.0, 0.0), "judgement": (0.5, 0.0), "features": (0.0, 2.0)}.items():
        adversarial._training = TrainingConfig(adversarial_weight=weights[0], feature_matching_weight=weights[1])
        distance = 1e-3 * (generated - reference).square().sum()
        only[name] = adversarial.gradient(generated, reference, distance, None)
    size = only["distance"].norm()
    assert float((only["judgement"] - only["distance"]).norm() / size) == pytest.approx(0.5, rel=1e-4)
    assert float((only["features"] - only["distance"]).norm() / size) == pytest.approx(2.0, rel=1e-4)
    torch.testing.assert_close(only["distance"], 2e-3 * (generated - reference).detach())
    assert all(parameter.grad is None for parameter in adversarial.discriminator.parameters())


def test_what_lies_above_the_bandwidth_is_not_judged(adversarial):
    audio, bandwidth = tones(), torch.full((2,), 1000.0)
    high = 0.1 * torch.sin(torch.arange(2048) * 2.9)
    plain, more = (adversarial.judge(signal, bandwidth) for signal in (audio, audio + high))
    assert float(feature_matching_loss(plain, more)) < 0.01
    assert float(feature_matching_loss(adversarial.judge(audio, None), adversarial.judge(audio + high, None))) > 0.1


def test_features_of_the_same_audio_match(adversarial):
    judged = adversarial.judge(clips(), None)
    assert float(feature_matching_loss(judged, judged)) == 0


def test_state_goes_on_where_it_was(adversarial):
    adversarial.step(clips(), tones(), None)
    state = adversarial.state_dict()
    other = AdversarialTraining(adversarial._training, RATE, torch.device("cpu"), bf16=False)
    other.load_state_dict(state)
    assert float(other.step(clips(seed=2), tones(), None)) == float(adversarial.step(clips(seed=2), tones(), None))


def test_a_gradient_that_is_not_finite_changes_nothing(adversarial):
    before = [parameter.clone() for parameter in adversarial.discriminator.parameters()]
    assert math.isnan(float(adversarial.step(clips() * math.nan, tones(), None)))
    assert all(map(torch.equal, before, adversarial.discriminator.parameters()))
