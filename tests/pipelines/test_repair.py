"""Repair keeps what is known, invents the rest, and every one of its options counts."""

from __future__ import annotations

import pytest
import torch

from audiodiff import Generator, Vocoder
from audiodiff.audio.degradation import Clipping, Gaps, LowPass, Noise
from audiodiff.errors import AudioError, ConfigError
from audiodiff.pipelines.repair import RepairConfig, repair

RATE = 8000
GAP = Gaps(((0.2, 0.25),), RATE)


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def generator(tiny_generator_folder):
    return Generator.from_pretrained(tiny_generator_folder, "cpu")


@pytest.fixture(scope="module")
def speech(voice):
    return torch.from_numpy(voice(0.5, RATE, 3))[None]


def noisy(speech):
    return torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["vocoder", "generator"])
@pytest.mark.parametrize("start", ["baseline", "noise", "griffin-lim"])
def test_what_is_known_stays_and_the_rest_is_the_models(kind, start, speech, request):
    pipeline = request.getfixturevalue(kind)
    degraded, label = GAP.observe(speech), "yes" if kind == "generator" else None
    config = RepairConfig(start=start)
    if kind == "generator" and start == "griffin-lim":
        with pytest.raises(ConfigError, match="needs a mel"):
            repair(pipeline, degraded, GAP, config, label=label)
        return
    repaired = repair(pipeline, degraded, GAP, config, label=label, steps=3)
    gap = GAP.mask(degraded)
    assert repaired.shape == degraded.shape
    assert torch.equal(repaired[:, ~gap], degraded[:, ~gap])
    assert not torch.allclose(repaired[:, gap], GAP.baseline(degraded)[:, gap], atol=1e-3)


@pytest.mark.parametrize(
    "degradation", [Clipping(0.2), Noise(10.0), LowPass(1500.0, RATE)], ids=lambda d: type(d).__name__
)
def test_every_degradation_is_repaired_as_it_can_be(degradation, vocoder, speech):
    degraded = degradation.degrade(speech, noisy(speech))
    repaired = repair(vocoder, degraded, degradation, RepairConfig(method="diffusion"))
    assert not torch.allclose(repaired, degradation.baseline(degraded), atol=1e-4)
    if not isinstance(degradation, Noise):
        assert torch.allclose(degradation.observe(repaired), degradation.observe(degraded), atol=2e-3)


@pytest.mark.parametrize("degradation", [Clipping(0.2), Noise(10.0), Gaps(((0.2, 0.21),), RATE)], ids=str)
def test_the_model_is_left_out_where_it_improves_nothing(degradation, vocoder, speech):
    degraded, calls = degradation.degrade(speech, noisy(speech)), []
    repaired = repair(vocoder, degraded, degradation, on_progress=calls.append)
    assert torch.equal(repaired, degradation.baseline(degraded))
    assert calls == [1]
    plain = repair(vocoder, degraded, GAP, RepairConfig(method="baseline"))
    assert torch.equal(plain, GAP.baseline(degraded))


def test_of_several_gaps_those_that_can_be_predicted_are(vocoder, speech):
    gaps = Gaps((*GAP.spans, (0.35, 0.36)), RATE)
    degraded = gaps.observe(speech)
    repaired, baseline = repair(vocoder, degraded, gaps, steps=3), gaps.baseline(degraded)
    assert torch.equal(repaired[:, ~GAP.mask(degraded)], baseline[:, ~GAP.mask(degraded)])
    assert not torch.allclose(repaired[:, GAP.mask(degraded)], baseline[:, GAP.mask(degraded)], atol=1e-3)


CHANGES = [
    ({}, {"seed": 1}),
    ({}, {"steps": 4}),
    ({}, {"start_log_snr": 2.0}),
    ({}, {"sampler": "ddpm"}),
    ({}, {"schedule": "cosine"}),
    ({"start": "griffin-lim"}, {}),
    ({"start": "noise"}, {}),
    ({"dps_strength": 0.5}, {}),
    ({}, {"corrector_steps": 1}),
    ({}, {"steps": 2, "log_snrs": (-1.0, 3.0)}),
    ({}, {"zero_terminal": True}),
    ({"rounds": 3}, {}),
    ({"replace": False}, {}),
]


@pytest.mark.parametrize(("config", "changes"), CHANGES, ids=str)
def test_every_option_counts(config, changes, vocoder, speech):
    degraded = GAP.observe(speech)
    baseline = repair(vocoder, degraded, GAP, steps=3)
    changed = repair(vocoder, degraded, GAP, RepairConfig(**config), **({"steps": 3} | changes))
    assert not torch.equal(baseline, changed)


def test_without_replacement_what_is_known_is_changed_too(vocoder, speech):
    degraded = GAP.observe(speech)
    free = repair(vocoder, degraded, GAP, RepairConfig(replace=False), steps=3)
    known = ~GAP.mask(degraded)
    assert not torch.allclose(free[:, known], degraded[:, known], atol=1e-3)


def test_a_label_counts_and_channels_have_noise_of_their_own(generator, speech):
    degraded = GAP.observe(speech).expand(2, -1)
    yes, no = (repair(generator, degraded, GAP, label=label) for label in ("yes", "no"))
    assert not torch.equal(yes, no)
    assert not torch.equal(yes[0], yes[1])
    alone = repair(generator, degraded[:1], GAP, label="yes", seed=1)
    assert torch.allclose(alone[0], yes[1], atol=1e-5)
    with pytest.raises(ConfigError, match="unknown label"):
        repair(generator, degraded, GAP, label="maybe")


def test_speakers_vectors_and_guidance_count(generator, save_random_model, tmp_path, speech):
    changes = {"speakers": ("a", "b"), "vector_width": 3, "condition_dropout": 0.1}
    config = generator.config.model_copy(update=changes)
    model = Generator.from_pretrained(save_random_model(tmp_path / "told", config), "cpu")
    degraded, named = GAP.observe(speech), {"label": "yes", "speaker": "a", "vector": torch.ones(3)}
    baseline = repair(model, degraded, GAP, **named, steps=2)
    for change in ({"speaker": "b"}, {"vector": torch.zeros(3)}, {"vector": None}, {"guidance": 3.0}):
        assert not torch.equal(repair(model, degraded, GAP, **(named | change), steps=2), baseline)
    with pytest.raises(ConfigError, match="guidance is 2"):
        repair(generator, degraded, GAP, label="yes", guidance=2.0)


def test_levels_that_a_model_has_for_its_own_start_do_not_matter(vocoder, speech):
    synthesis = vocoder.config.synthesis.model_copy(update={"log_snrs": (4.0, 6.0), "steps": 2, "zero_terminal": True})
    other = Vocoder(vocoder.network, vocoder.config.model_copy(update={"synthesis": synthesis}))
    degraded = GAP.observe(speech)
    assert torch.equal(repair(other, degraded, GAP), repair(vocoder, degraded, GAP))


def test_a_length_that_is_no_whole_block_is_kept(vocoder, speech):
    degraded = GAP.observe(speech)[:, :-13]
    assert repair(vocoder, degraded, GAP).shape == degraded.shape


def test_what_cannot_be_is_refused(vocoder, speech):
    with pytest.raises(AudioError, match="exceeds the recording"):
        repair(vocoder, speech, Gaps(((0.4, 0.6),), RATE))
    with pytest.raises(ConfigError, match="rounds: 0 is not a whole number from 1 to"):
        RepairConfig(rounds=0)
    with pytest.raises(ConfigError, match="synthesis settings"):
        repair(vocoder, speech, GAP, steps=0)
