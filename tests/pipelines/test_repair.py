"""Repair keeps what is known, invents the rest, and every one of its options counts."""

from __future__ import annotations

import pytest
import torch

from audiodiff import Generator, Vocoder
from audiodiff.audio.damage import Clipping, Gaps, LowPass, Noise
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
@pytest.mark.parametrize("start", ["plain", "noise", "griffin-lim"])
def test_what_is_known_stays_and_the_rest_is_the_models(kind, start, speech, request):
    pipeline = request.getfixturevalue(kind)
    damaged, label = GAP.observe(speech), "yes" if kind == "generator" else None
    config = RepairConfig(start=start)
    if kind == "generator" and start == "griffin-lim":
        with pytest.raises(ConfigError, match="needs a mel"):
            repair(pipeline, damaged, GAP, config, label=label)
        return
    repaired = repair(pipeline, damaged, GAP, config, label=label, steps=3)
    gap = GAP.touched(damaged)
    assert repaired.shape == damaged.shape
    assert torch.allclose(repaired[:, ~gap], damaged[:, ~gap], atol=1e-4)
    assert not torch.allclose(repaired[:, gap], GAP.plain(damaged)[:, gap], atol=1e-3)


@pytest.mark.parametrize("damage", [Clipping(0.2), Noise(10.0), LowPass(1500.0, RATE)], ids=lambda d: type(d).__name__)
def test_every_damage_is_repaired_as_it_can_be(damage, vocoder, speech):
    damaged = damage.damage(speech, noisy(speech))
    repaired = repair(vocoder, damaged, damage)
    assert not torch.allclose(repaired, damage.plain(damaged), atol=1e-4)
    if not isinstance(damage, Noise):
        assert torch.allclose(damage.observe(repaired), damage.observe(damaged), atol=2e-3)


CHANGES = [
    ({}, {"seed": 1}),
    ({}, {"steps": 4}),
    ({}, {"start_log_snr": 2.0}),
    ({}, {"sampler": "ddpm"}),
    ({}, {"schedule": "cosine"}),
    ({"start": "griffin-lim"}, {}),
    ({"start": "noise"}, {}),
    ({"steering": 0.5}, {}),
    ({}, {"corrector_steps": 1}),
    ({}, {"steps": 2, "levels": (-1.0, 3.0)}),
    ({}, {"zero_terminal": True}),
    ({"rounds": 3}, {}),
    ({"replace": False}, {}),
]


@pytest.mark.parametrize(("config", "changes"), CHANGES, ids=str)
def test_every_option_counts(config, changes, vocoder, speech):
    damaged = GAP.observe(speech)
    plain = repair(vocoder, damaged, GAP, steps=3)
    changed = repair(vocoder, damaged, GAP, RepairConfig(**config), **({"steps": 3} | changes))
    assert not torch.equal(plain, changed)


def test_without_replacement_what_is_known_is_changed_too(vocoder, speech):
    damaged = GAP.observe(speech)
    free = repair(vocoder, damaged, GAP, RepairConfig(replace=False), steps=3)
    known = ~GAP.touched(damaged)
    assert not torch.allclose(free[:, known], damaged[:, known], atol=1e-3)


def test_a_label_counts_and_channels_have_noise_of_their_own(generator, speech):
    damaged = GAP.observe(speech).expand(2, -1)
    yes, no = (repair(generator, damaged, GAP, label=label) for label in ("yes", "no"))
    assert not torch.equal(yes, no)
    assert not torch.equal(yes[0], yes[1])
    alone = repair(generator, damaged[:1], GAP, label="yes", seed=1)
    assert torch.allclose(alone[0], yes[1], atol=1e-5)
    with pytest.raises(ConfigError, match="unknown label"):
        repair(generator, damaged, GAP, label="maybe")


def test_speakers_vectors_and_guidance_count(generator, save_random_model, tmp_path, speech):
    changes = {"speakers": ("a", "b"), "vector_width": 3, "condition_dropout": 0.1}
    config = generator.config.model_copy(update=changes)
    model = Generator.from_pretrained(save_random_model(tmp_path / "told", config), "cpu")
    damaged, told = GAP.observe(speech), {"label": "yes", "speaker": "a", "vector": torch.ones(3)}
    plain = repair(model, damaged, GAP, **told, steps=2)
    for change in ({"speaker": "b"}, {"vector": torch.zeros(3)}, {"vector": None}, {"guidance": 3.0}):
        assert not torch.equal(repair(model, damaged, GAP, **(told | change), steps=2), plain)
    with pytest.raises(ConfigError, match="guidance is 2"):
        repair(generator, damaged, GAP, label="yes", guidance=2.0)


def test_levels_that_a_model_has_for_its_own_start_do_not_matter(vocoder, speech):
    synthesis = vocoder.config.synthesis.model_copy(update={"levels": (4.0, 6.0), "steps": 2, "zero_terminal": True})
    other = Vocoder(vocoder.network, vocoder.config.model_copy(update={"synthesis": synthesis}))
    damaged = GAP.observe(speech)
    assert torch.equal(repair(other, damaged, GAP), repair(vocoder, damaged, GAP))


def test_a_length_that_is_no_whole_block_is_kept(vocoder, speech):
    damaged = GAP.observe(speech)[:, :-13]
    assert repair(vocoder, damaged, GAP).shape == damaged.shape


def test_what_cannot_be_is_refused(vocoder, speech):
    with pytest.raises(AudioError, match="is not within"):
        repair(vocoder, speech, Gaps(((0.4, 0.6),), RATE))
    with pytest.raises(ConfigError, match="rounds is 0"):
        RepairConfig(rounds=0)
    with pytest.raises(ConfigError, match="synthesis settings"):
        repair(vocoder, speech, GAP, steps=0)
