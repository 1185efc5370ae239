"""Pipelines: mel, noise level, noise and audio meet in the right place, and every argument decides what it says."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from audiodiff import Generator, Vocoder
from audiodiff.audio.mel import align_to_hops
from audiodiff.checkpoint import choose_device
from audiodiff.config import MEL_CONVENTIONS, DiffusionConfig, MelConfig, ModelConfig, NetworkConfig, WhiteningConfig
from audiodiff.errors import AudioError, ConfigError, MelError, ModelError
from audiodiff.networks import build_network
from audiodiff.networks.conditioning import GlobalConditions

RATE = 8000


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def generator(tiny_generator_folder):
    return Generator.from_pretrained(tiny_generator_folder, "cpu")


@pytest.fixture(scope="module")
def audio(voice) -> Tensor:
    """Return two sounds, `(2, 2000)`, of no whole number of frames."""
    return torch.stack([torch.from_numpy(voice(0.25, RATE, seed)) for seed in (1, 2)])


@pytest.fixture(scope="module")
def mel(vocoder, audio) -> Tensor:
    return vocoder.mel(audio)


def difference(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max() / y.abs().max())


# --- the truth --------------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """A network that knows the clean signal, and so predicts the noise exactly."""

    receptive_field, look_ahead, context_frames = 0, 0, 0
    stack = SimpleNamespace(conditioner=None)
    variance = None

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean
        self.levels: list[float] = []

    def encode(self, mel: Tensor) -> Tensor:
        return mel.mT

    def embed(self, given: GlobalConditions) -> Tensor:
        return torch.zeros(1, 1)

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor | None, given: Tensor | None) -> Tensor:
        self.levels.append(float(log_snr[0]))
        alpha, sigma = (torch.sigmoid(sign * log_snr.double()).sqrt().view(-1, 1, 1).float() for sign in (1, -1))
        return (x - alpha * self.clean) / sigma


FREE = MelConfig(sample_rate=RATE, n_fft=512, hop_length=100, win_length=400, n_mels=20, f_min=0, f_max=4000)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("whitening", ["none", "energy", "spectral"])
@pytest.mark.parametrize(
    "mel", [*(mel for mel in MEL_CONVENTIONS.values() if not mel.only_given), FREE], ids=lambda mel: mel.name
)
def test_a_perfect_network_gives_the_recording_back(mel, whitening, sampler, voice):
    config = ModelConfig(
        sample_rate=mel.sample_rate,
        mel=mel,
        network=NetworkConfig(channels=4, layers=1, patch=4),
        whitening=WhiteningConfig(kind=whitening, exponent=0.5, gain=(2.0,)),
    )
    vocoder = Vocoder(nn.Linear(1, 1), config)
    audio = torch.from_numpy(voice(0.2, mel.sample_rate))[None]
    frames = vocoder.mel(audio)
    aligned = align_to_hops(frames, mel)
    n_samples = aligned.shape[-1] * mel.hop_length
    assert 0 <= n_samples - audio.shape[1] < mel.hop_length
    padded = nn.functional.pad(audio, (0, n_samples - audio.shape[1])).unsqueeze(1)
    vocoder.network = Oracle(vocoder.whitening.whiten(padded, aligned))
    made = vocoder(frames, steps=4, sampler=sampler)
    torch.testing.assert_close(made[:, : audio.shape[1]], audio, rtol=0, atol=1e-4)
    assert vocoder.network.levels == pytest.approx([-8, -2, 4, 10])


@pytest.mark.parametrize("n_fft", [256, 512])
def test_a_griffin_lim_start_has_the_spectrum_of_the_recording(vocoder, audio, n_fft):
    """At a noise level of nearly clean signal, a network that sees no noise leaves the estimate as it is."""

    class Noiseless(Oracle):
        def forward(self, x, log_snr, condition, given):
            return torch.zeros_like(x)

    mel = vocoder.mel_config.model_copy(update={"n_fft": n_fft})  # of a window of 256 samples
    guess = Vocoder(nn.Linear(1, 1), vocoder.config.model_copy(update={"mel": mel}))
    guess.network = Noiseless(torch.zeros(1))
    frames = guess.mel(audio)
    made = guess(frames, start="griffin-lim", start_log_snr=15, end_log_snr=16, steps=1)
    error = guess.mel(made[:, : audio.shape[1]]) - frames
    assert abs(float(error.mean())) < 0.3  # natural logarithm, so the level is right within 2.6 dB
    assert float(error.abs().mean()) < 0.5


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun"])
@pytest.mark.parametrize("start", ["noise", "griffin-lim"])
def test_a_seed_makes_the_same_clip_at_batch_1_and_8(vocoder, mel, sampler, start):
    mels = mel.repeat(4, 1, 1)
    eight = vocoder(mels, seed=range(8), sampler=sampler, start=start, steps=3)
    for i in range(8):
        one = vocoder(mels[i], seed=i, sampler=sampler, start=start, steps=3)
        assert difference(one, eight[i]) < 1e-4
    assert difference(eight[0], eight[2]) > 0.01  # the same mel with another seed


def test_one_seed_serves_all(vocoder, mel):
    both = vocoder(mel, seed=3)
    assert difference(both, vocoder(mel, seed=[3, 3])) == 0
    assert difference(both[1], vocoder(mel[1], seed=3)) < 1e-4


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2], []])
def test_a_wrong_number_of_seeds_is_refused(vocoder, mel, seeds):
    with pytest.raises(ConfigError, match=f"{len(seeds)} seeds for 2 waveforms"):
        vocoder(mel, seed=seeds)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "beside"),
    [
        ({"steps": 4}, {}),
        ({"sampler": "ddpm"}, {}),
        ({"sampler": "heun"}, {}),
        ({"sampler": "dpmpp_2m"}, {"steps": 4}),
        ({"sampler": "dpmpp_2m_sde"}, {"steps": 4, "sampler": "ddpm"}),
        ({"corrector_steps": 1}, {}),
        ({"corrector_snr": 0.3}, {"corrector_steps": 1}),
        ({"schedule": "cosine"}, {"steps": 4}),
        ({"start": "griffin-lim"}, {}),
        ({"start_log_snr": -6.0}, {}),
        ({"end_log_snr": 6.0}, {}),
        ({"griffin_lim_iterations": 2}, {"start": "griffin-lim"}),
    ],
    ids=lambda values: ",".join(values),
)
def test_every_setting_changes_the_output(vocoder, mel, change, beside):
    assert difference(vocoder(mel, **beside | change), vocoder(mel, **beside)) > 1e-4


def test_a_setting_that_is_not_given_is_the_model_s_own(vocoder, mel):
    own = vocoder.config.synthesis.model_dump()
    assert difference(vocoder(mel), vocoder(mel, **own)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: 0 is not a whole number from 1 to 10,000"),
        ({"stepz": 3}, r"stepz: unknown key; did you mean steps\?"),
        ({"sampler": "euler"}, "sampler: Input should be 'ddim', 'heun', 'ddpm', 'dpmpp_2m' or 'dpmpp_2m_sde'"),
        ({"corrector_steps": -1}, "corrector_steps: -1 is not a whole number from 0 to 1,000"),
        ({"corrector_snr": 1.0}, "corrector_snr: 1.0 is not a number above 0 and below 1"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; choose from uniform"),
        ({"start_log_snr": 11.0}, "start_log_snr 11.0 must be below end_log_snr"),
    ],
)
def test_an_impossible_setting_is_refused(vocoder, mel, changes, message):
    with pytest.raises(ConfigError, match=message):
        vocoder(mel, **changes)


def test_starting_from_noise_where_the_schedule_does_not_warns(vocoder, mel):
    with pytest.warns(UserWarning, match=r"schedule 'fibonacci' with 3 steps begins at log-SNR 12") as caught:
        vocoder(mel, schedule="fibonacci", steps=3)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocoder(mel, schedule="fibonacci", steps=3, start="griffin-lim")
        vocoder(mel, schedule="linear_beta", steps=3)


def test_a_schedule_that_the_model_was_made_for_does_not_warn(vocoder, mel):
    """A published DiffWave is trained down to a log-SNR of -0.94, and its fast sampling begins above that."""
    config = vocoder.config
    own = config.synthesis.model_copy(update={"schedule": "diffwave", "steps": 6})
    published = Vocoder(vocoder.network, config.model_copy(update={"synthesis": own}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        published(mel)
        published(mel, steps=4)
        published(mel, schedule="diffwave_50", steps=50)
    with pytest.warns(UserWarning, match=r"'diffwave_large' with 6 steps begins at log-SNR -1.2"):
        vocoder(mel, schedule="diffwave_large", steps=6)
    with pytest.warns(UserWarning, match=r"'fibonacci' with 1 steps .* choose one that begins below -0.5"):
        published(mel, schedule="fibonacci", steps=1)


def test_another_start_than_the_models_begins_at_the_lowest_trained_level(vocoder, mel):
    config = vocoder.config
    own = config.synthesis.model_copy(update={"start": "griffin-lim", "start_log_snr": 4.0})
    warm = Vocoder(vocoder.network, config.model_copy(update={"synthesis": own}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = warm(mel, start="noise")
    expected = warm(mel, start="noise", start_log_snr=config.diffusion.log_snr_min)
    torch.testing.assert_close(made, expected, rtol=0, atol=0)
    assert not torch.equal(warm(mel, start="griffin-lim", start_log_snr=-4.0), warm(mel))


def test_on_step_sees_every_step(vocoder, generator, mel):
    for pipeline in (lambda **more: vocoder(mel, **more), lambda **more: generator.generate("yes", 2, **more)):
        seen = []
        made = pipeline(steps=3, on_step=lambda step, x, seen=seen: seen.append((step, x.shape)))
        for step in (1, 2, 3):  # of every piece of both signals
            assert sum(shape.numel() for at, shape in seen if at == step) == made.numel()
        assert {step for step, _ in seen} == {1, 2, 3}


def test_no_gradient_is_kept(vocoder, mel):
    assert not vocoder(mel.clone().requires_grad_()).requires_grad


# --- mels -------------------------------------------------------------------------------------------------------------


def test_ranks(vocoder, audio, mel):
    batch = vocoder(mel)
    assert batch.shape == (2, 64 * mel.shape[-1])
    assert vocoder(mel[0]).shape == batch.shape[1:]
    assert vocoder(mel[:1]).shape == (1, *batch.shape[1:])
    assert difference(vocoder(mel[0]), batch[0]) < 1e-4
    assert vocoder.mel(audio[0]).shape == mel.shape[1:]
    assert vocoder.mel(audio.unsqueeze(1)).shape == (2, 1, *mel.shape[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_mels_of_other_precision_are_taken(vocoder, mel, dtype):
    made = vocoder(mel.to(dtype))
    assert made.dtype == torch.float32
    assert difference(made, vocoder(mel)) < 0.5


def test_the_mel_decides_the_audio(vocoder, mel):
    assert difference(vocoder(mel + 1), vocoder(mel)) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mel: mel[:, :19], r"\(2, 19, 32\); expected \(n_mels, frames\) with n_mels = 20"),
        (lambda mel: mel.transpose(1, 2), "which is transposed"),
        (lambda mel: torch.where(mel == mel.max(), torch.nan, mel), "1 values that are NaN or infinite"),
        (lambda mel: mel[None], "or a batch of them"),
        (lambda mel: mel[0, 0], "or a batch of them"),
        (lambda mel: mel[..., :0], "empty"),
        (lambda mel: mel.long(), "expected floating point"),
        (lambda mel: 8.686 * mel - 40, "is of another one"),
    ],
)
def test_a_mel_that_does_not_fit_is_refused(vocoder, mel, change, message):
    with pytest.raises(MelError, match=message):
        vocoder(change(mel))


def test_one_frame_of_a_frame_centred_convention_is_no_signal():
    mel = MEL_CONVENTIONS["vocos-24k"]
    vocoder = Vocoder(nn.Linear(1, 1), ModelConfig(sample_rate=24000, mel=mel))
    with pytest.raises(MelError, match="1 frame.*at least 2"):
        vocoder(torch.full((100, 1), -5.0))


def test_audio_shorter_than_a_frame_is_refused(vocoder):
    with pytest.raises(AudioError, match="50 samples is too short"):
        vocoder.mel(torch.zeros(50))


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_what_the_network_was_trained_to_predict_is_taken_as_such(tiny_generator_folder, target):
    """A network that always answers zero says: no noise, no v, no signal."""
    config = Generator.from_pretrained(tiny_generator_folder, "cpu").config
    config = config.model_copy(update={"diffusion": DiffusionConfig(target=target), "whitening": WhiteningConfig()})

    class Zero(Oracle):
        def forward(self, x, log_snr, condition, given):
            return torch.zeros_like(x)

    pipeline = Generator(nn.Linear(1, 1), config)
    pipeline.network = Zero(torch.zeros(1))
    made = pipeline.generate("yes", steps=1)
    deviation = {"epsilon": math.exp(4), "v": math.exp(-4), "x0": 0.0}[target]  # 1/alpha, alpha, 0 at log-SNR -8
    assert float(made.std()) == pytest.approx(deviation, rel=0.05, abs=1e-6)


def test_models_of_the_other_kind_are_refused(tiny_vocoder_folder, tiny_generator_folder):
    with pytest.raises(ModelError, match=r"not a vocoder\. Use `audiodiff generate`\."):
        Vocoder.from_pretrained(tiny_generator_folder, "cpu")
    with pytest.raises(ModelError, match=r"is a vocoder and needs a mel spectrogram\. Use `audiodiff vocode`\."):
        Generator.from_pretrained(tiny_vocoder_folder, "cpu")


def test_devices_that_are_not_there_are_refused():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "quantum", ""):
        with pytest.raises(ConfigError, match=f"device '{name}' is not available; available: auto, cpu"):
            choose_device(name)


# --- generators -------------------------------------------------------------------------------------------------------


def test_clips_have_the_length_that_was_asked_for(generator):
    assert generator.generate("yes").shape == (1, 1, 4000)
    assert generator.generate("yes", 3, 0.1001).shape == (3, 1, 801)  # the network works on patches of 8


def test_labels_change_the_clip(generator):
    assert difference(generator.generate("yes"), generator.generate("no")) > 1e-3


def test_a_clip_is_made_from_its_own_seed_whatever_the_count(generator):
    eight = generator.generate("yes", 8, 0.1, seed=5)
    for i in range(8):
        assert difference(generator.generate("yes", 1, 0.1, seed=5 + i), eight[i : i + 1]) < 1e-4
    assert difference(eight[0], eight[1]) > 0.1


@pytest.mark.parametrize("attention", [0, 1])
@pytest.mark.parametrize("seconds", [0.1234, 0.4])
def test_a_unet_makes_in_pieces_what_it_makes_at_once(attention, seconds):
    levels = {"patch": 8, "factors": (2, 2), "multipliers": (1, 2, 4), "blocks": (1, 1, 1), "attention": attention}
    config = ModelConfig(sample_rate=RATE, labels=("a", "b"), network=NetworkConfig(kind="unet", channels=8, **levels))
    torch.manual_seed(0)
    network = build_network(config).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    clips = {}
    for piece_frames in (1000, 3):
        generator = Generator(network, config, "fp32")
        generator.engine.piece_frames = piece_frames
        clips[piece_frames] = generator.generate("a", 2, seconds, steps=3)
    assert clips[3].shape == (2, 1, round(seconds * RATE))
    assert difference(clips[3], clips[1000]) < 1e-4
    assert difference(clips[3], Generator(network, config, "fp32").generate("b", 2, seconds, steps=3)) > 1e-3


@pytest.mark.parametrize(
    "change", [{"steps": 4}, {"sampler": "ddpm"}, {"start_log_snr": -5.0}], ids=lambda c: next(iter(c))
)
def test_settings_change_the_clip(generator, change):
    assert difference(generator.generate("yes", **change), generator.generate("yes")) > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "maybe"}, "unknown label 'maybe'; the labels of this model are yes, no"),
        ({"label": None}, "needs a label; choose from yes, no"),
        ({"label": "yes", "count": 0}, "count: 0 is not a whole number from 1 to"),
        ({"label": "yes", "seconds": 1e-9}, "no sample"),
        ({"label": "yes", "seconds": -1.0}, "seconds: -1.0 is not a number above 0"),
        ({"label": "yes", "steps": -1}, "steps"),
        ({"label": "yes", "start": "griffin-lim"}, "griffin-lim"),
    ],
)
def test_a_clip_that_cannot_be_made_is_refused(generator, arguments, message):
    with pytest.raises(ConfigError, match=message):
        generator.generate(**arguments)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("start", ["noise", "griffin-lim"])
def test_cuda_makes_what_the_cpu_makes(vocoder, mel, tiny_vocoder_folder, start):
    on_gpu, vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cuda", "fp32"), vocoder.with_dtype("fp32")
    made = on_gpu(mel, seed=[0, 1], sampler="ddpm", steps=4, start=start)
    assert made.device.type == "cuda"
    expected = vocoder(mel, seed=[0, 1], sampler="ddpm", steps=4, start=start)
    assert difference(made.cpu(), expected) < 1e-3


@pytest.mark.gpu
def test_cuda_generates_what_the_cpu_generates(tiny_generator_folder):
    on_gpu = Generator.from_pretrained(tiny_generator_folder, "cuda", "fp32")
    on_cpu = Generator.from_pretrained(tiny_generator_folder, "cpu", "fp32")
    made = on_gpu.generate("yes", 3, sampler="ddpm", steps=4).cpu()
    assert difference(made, on_cpu.generate("yes", 3, sampler="ddpm", steps=4)) < 1e-3
