"""Everything that computes on tensors does so on a CUDA device, pretended or real, as it does on the CPU."""

from __future__ import annotations

import copy
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch

from audiodiff.audio.degradation import Clipping, Gaps, LowPass, Noise
from audiodiff.audio.io import load_audio
from audiodiff.benchmark.inputs import BASE, load_network, noise_mel
from audiodiff.checkpoint import load_model
from audiodiff.config import EmbeddingConfig, NetworkConfig
from audiodiff.data.corpus import open_recordings
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset
from audiodiff.diffusion.samplers import SAMPLERS
from audiodiff.evaluation.spectral import log_mel_distance, multi_resolution_stft_distance
from audiodiff.networks import build_network
from audiodiff.pipelines import Generator, Vocoder
from audiodiff.pipelines.repair import RepairConfig, repair
from audiodiff.training import randomness
from audiodiff.training.distributed import Distributed
from audiodiff.training.state import TrainState

sys.path.append(str(Path(__file__).parent))
from pretended_cuda import PretendedCapture, pretended_cuda

NETWORKS = {
    "stft": {"kind": "stft", "n_fft": 256, "hop_length": 64, "channels": 32},
    "branches": {
        "kind": "stft",
        "n_fft": 256,
        "hop_length": 64,
        "channels": 16,
        "mel_encoder_layers": 2,
        "look_ahead": 1,
        "branches": ({"n_fft": 64, "hop_length": 16, "channels": 8, "layers": 2},),
    },
    "patches": {"kind": "diffwave", "patch": 8, "channels": 16},
    "upsampled": {"kind": "diffwave", "channels": 16, "upsampling": "transposed", "upsampling_factors": (8, 8)},
    "unet": {
        "kind": "unet",
        "patch": 4,
        "channels": 16,
        "factors": (4, 4),
        "multipliers": (1, 1, 1),
        "blocks": (1, 1, 1),
    },
}


@pytest.fixture
def cuda(monkeypatch):
    with pretended_cuda(monkeypatch) as device:
        yield device


@pytest.fixture(scope="module")
def models(tiny_vocoder_folder, tiny_generator_folder):
    """A vocoder and a generator, read before there is a pretended device."""
    return load_model(tiny_vocoder_folder, "cpu"), load_model(tiny_generator_folder, "cpu")


@pytest.fixture(scope="module")
def batches(tiny_run_config):
    recordings, _ = open_recordings(tiny_run_config.data)
    reader = CropReader.for_model(tiny_run_config.model, tiny_run_config.data)
    return list(islice(CropDataset(recordings, reader, tiny_run_config.data, 0).batches(0, 2), 2))


def moved(kind, model, device):
    network, config = model
    return kind(copy.deepcopy(network).to(device), config, "fp32")


def network_of(config, kind):
    network = NetworkConfig(**{"layers": 2, "embedding": EmbeddingConfig(width=16, centres=8)} | NETWORKS[kind])
    config = config.model_copy(update={"network": network})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_network(config).eval()
        torch.nn.init.normal_(built.output.weight, std=0.1)
    return built, config


def mels(model, n_frames=10):
    """Two mels `(2, n_mels, frames)` of noise, on the CPU."""
    vocoder = Vocoder(*model, "fp32")
    return vocoder.mel(0.1 * torch.randn(2, 64 * n_frames, generator=torch.Generator().manual_seed(0)))


def compare(made, expected, tolerance=1e-5):
    assert made.device.type == "cuda"
    torch.testing.assert_close(made.detach().cpu(), expected.detach(), rtol=tolerance, atol=tolerance)


def test_a_tensor_left_on_the_host_is_noticed(cuda):
    there, here = torch.ones(3, device=cuda), torch.ones(3)
    assert there.device.type == "cuda"
    assert (there + 1 + torch.tensor(2.0)).cpu().tolist() == [4.0] * 3
    for mistake in (
        lambda: there + here,
        lambda: here.mul_(there),
        lambda: torch.cat([there, here]),
        lambda: there.unsqueeze(0) @ here.unsqueeze(1),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mistake()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("start", ["noise", "griffin-lim", "phase-gradient"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_vocoder(models, cuda, sampler, start):
    mel = mels(models[0])
    made, expected = (
        moved(Vocoder, models[0], device)(
            mel, seed=[0, 1], sampler=sampler, steps=3, start=start, corrector_steps=1, griffin_lim_iterations=2
        )
        for device in (cuda, "cpu")
    )
    compare(made, expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_in_both_precisions_whole_and_streamed(models, cuda, kind):
    model, mel = network_of(models[0][1], kind), mels(models[0])[0]
    for start in ("noise", "griffin-lim", "phase-gradient"):
        on_gpu, on_cpu = (moved(Vocoder, model, device) for device in (cuda, "cpu"))
        compare(on_gpu(mel, start=start, zero_terminal=True), on_cpu(mel, start=start, zero_terminal=True), 1e-4)
        assert on_gpu.with_dtype("bf16")(mel, start=start).device.type == "cuda"
        if on_gpu.engine.reach_frames is not None:
            pieces = list(on_gpu.stream(iter(mel.split(3, -1)), start=start, chunk_seconds=0.05))
            compare(torch.cat(pieces), on_cpu(mel, start=start), 1e-4)


@pytest.mark.parametrize("changes", [{}, {"guidance": 2.0, "guidance_rescale": 0.5}, {"corrector_steps": 2}], ids=str)
def test_a_generator(models, cuda, changes):
    (network, config), made = models[1], []
    model = network, config.model_copy(update={"condition_dropout": 0.1})
    for device in (cuda, "cpu"):
        made.append(moved(Generator, model, device).generate("yes", 2, steps=3, sampler="ddpm", **changes))
    compare(*made)


def thrice(make, **options):
    """Return what three seeds make, the third after a capture, and what a callback saw of it."""
    steps = []
    made = [make(seed=seed, on_step=lambda step, x: steps.append((step, x)), **options) for seed in (3, 4, 5)]
    return made[-1], steps[-len(steps) // 3 :]


def compare_captured(make, **options):
    (made, steps), (expected, expected_steps) = thrice(make["cuda"], **options), thrice(make["cpu"], **options)
    assert PretendedCapture.made == 1
    compare(made, expected, 1e-4)
    assert [step for step, _ in steps] == [step for step, _ in expected_steps]
    for (_, x), (_, expected) in zip(steps, expected_steps, strict=True):
        compare(x, expected, 1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_graphs_of_every_network_are_captured_and_replayed_with_a_callback(models, cuda, kind):
    model, mel = network_of(models[0][1], kind), mels(models[0])[0]
    make = {device.type: partial(moved(Vocoder, model, device), mel) for device in (cuda, torch.device("cpu"))}
    compare_captured(make, steps=3, sampler="ddpm", corrector_steps=1)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance": 2.0, "guidance_rescale": 0.5}, {"guidance": 2.0, "guidance_interval": (-4, 2), "clamp": True}],
    ids=str,
)
def test_graphs_of_a_generator(models, cuda, changes, sampler):
    network, config = models[1]
    model = network, config.model_copy(update={"condition_dropout": 0.1})
    generators = {device.type: moved(Generator, model, device) for device in (cuda, torch.device("cpu"))}
    make = {device: partial(generator.generate, "yes") for device, generator in generators.items()}
    compare_captured(make, steps=3, sampler=sampler, **changes)


@pytest.mark.parametrize("mistake", ["copy", "read", "value"])
def test_a_capture_with_copies_between_host_and_device_is_refused(cuda, mistake):
    x = torch.ones(3, device=cuda)
    what = {
        "copy": lambda _: x.copy_(torch.ones(3)),
        "read": lambda _: float(x[0]),
        "value": lambda _: torch.tensor([1.0], device=cuda),
    }
    with pytest.raises(RuntimeError, match="capturing"):
        PretendedCapture(cuda)(what[mistake])


@pytest.mark.parametrize(
    "degradation",
    [Gaps(((0.02, 0.04),), 8000), Clipping(0.1), Noise(10.0), LowPass(1500.0, 8000)],
    ids=lambda degradation: type(degradation).__name__,
)
@pytest.mark.parametrize(
    "config", [RepairConfig(), RepairConfig(dps_strength=1.0, start="noise"), RepairConfig("griffin-lim")]
)
def test_repair(models, cuda, degradation, config):
    audio = 0.1 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(0))
    made, expected = (
        repair(moved(Vocoder, models[0], device), audio, degradation, config, steps=2) for device in (cuda, "cpu")
    )
    compare(made, expected, 1e-4)


STEPS = {
    "plain": ({}, {}),
    "bf16 and checkpointing": ({}, {"precision": "bf16", "gradient_checkpointing": True}),
    "few steps": (
        {"synthesis": {"start": "griffin-lim", "griffin_lim_iterations": 2, "steps": 2}},
        {"few_step_weight": 1.0},
    ),
    "few steps of several counts, from noise too": (
        {"synthesis": {"start": "phase-gradient", "griffin_lim_iterations": 1, "steps": 2}},
        {
            "few_step_weight": 1.0,
            "few_step_counts": (1, 2, 4),
            "few_step_from_noise": 0.5,
        },
    ),
    "few steps, ddpm": ({"synthesis": {"sampler": "ddpm", "steps": 2, "corrector_steps": 1}}, {"few_step_weight": 1.0}),
    "weighted": ({}, {"loss_weighting": "min-snr", "spectral_weighting": 1.0}),
    "learned variance": ({"diffusion": {"variance": "learned"}}, {}),
    "v": ({"diffusion": {"target": "v"}}, {}),
}


def step_losses(run_config, batches, case, devices):
    """Return the losses of a few training steps on each of some devices."""
    parts, options = STEPS[case]
    model = run_config.model
    model = model.model_copy(
        update={name: getattr(model, name).model_copy(update=values) for name, values in parts.items()}
    )
    training = run_config.training.model_copy(update=options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(model)
    losses = []
    for device in devices:
        state, results = TrainState(network, model, training, Distributed(device), 0.5), []
        for batch in batches:
            results += state.step(batch)
        results += state.flush()
        losses.append([result.loss for result in results])
        assert all(result.finite for result in results)
        assert next(state.network.parameters()).device.type == device.type
    return losses


@pytest.mark.parametrize("case", STEPS)
def test_a_training_step(tiny_run_config, batches, cuda, case):
    losses = step_losses(tiny_run_config, batches, case, [cuda, torch.device("cpu")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if "bf16" not in case else 0.1)


def test_measuring_distances(batches, cuda):
    audio = batches[0].audio[:, 0]
    noisy, bandwidth = audio + 0.1, torch.full((len(audio),), 3000.0)
    for measure in (
        lambda a, b: multi_resolution_stft_distance(a, b, sample_rate=8000, bandwidth=bandwidth),
        lambda a, b: log_mel_distance(a, b, sample_rate=8000),
    ):
        compare(measure(noisy.to(cuda), audio.to(cuda)), measure(noisy, audio))


# --- on a real GPU ----------------------------------------------------------------------------------------------------


def snr_db(made, expected):
    """Power of the expected over that of the difference, in dB; NaN where anything is not finite."""
    made, expected = made.detach().cpu().double(), expected.detach().cpu().double()
    assert made.shape == expected.shape
    return float(10 * torch.log10(expected.square().sum() / (made - expected).square().sum().clamp_min(1e-30)))


@pytest.fixture(scope="module")
def recordings():
    """Four different stretches `(4, time)` of a bundled recording, 0.74 s at 22,050 Hz."""
    clip = Path(__file__).parents[1] / "audiodiff/assets/clips/sense-and-sensibility.flac"
    audio = load_audio(clip, sample_rate=22050)[0]
    return torch.stack([audio[start * 22050 :][:16384] for start in range(4)])


@pytest.fixture(scope="module")
def on_cpu(recordings):
    """The bundled vocoder in fp32 on the CPU, mels of `recordings`, and what it makes of them with one seed each."""
    vocoder = Vocoder.from_pretrained(None, "cpu", "fp32")
    mel = vocoder.mel(recordings)
    made = {
        start: vocoder(mel, seed=range(4), start=start, steps=2) for start in ("noise", vocoder.config.synthesis.start)
    }
    return vocoder, mel, made


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [("fp32", 60), ("bf16", 30)])
def test_the_default_vocoder_on_a_gpu(on_cpu, dtype, least):
    _, mel, expected = on_cpu
    on_gpu = Vocoder.from_pretrained(None, "cuda", dtype)
    found = {start: snr_db(on_gpu(mel, seed=range(4), start=start, steps=2), made) for start, made in expected.items()}
    print(dtype, found)
    assert on_gpu.device.type == "cuda"
    assert min(found.values()) > least, found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_batch_and_a_callback_change_nothing_on_a_gpu(on_cpu, dtype):
    _, mel, _ = on_cpu
    on_gpu, steps = Vocoder.from_pretrained(None, "cuda", dtype), []
    many = on_gpu(mel.repeat(4, 1, 1), seed=range(16))
    told = on_gpu(mel, seed=range(4), on_step=lambda step, x: steps.append((step, x.shape)))
    found = snr_db(told, many[:4]), snr_db(on_gpu(mel[0], seed=0), many[0])
    assert steps
    assert min(found) > (60 if dtype == "fp32" else 30), found


@pytest.mark.gpu
def test_long_audio_and_streams_are_whole_on_a_gpu(on_cpu):
    _, mel, _ = on_cpu
    on_gpu, mel = Vocoder.from_pretrained(None, "cuda", "fp32"), torch.cat(list(mel), dim=-1)
    whole = on_gpu(mel, start="noise")
    assert snr_db(on_gpu(mel, start="noise", chunk_seconds=1.0), whole) > 60
    assert snr_db(torch.cat(list(on_gpu.stream(iter(mel.split(37, -1)), start="noise"))), whole) > 60


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [("fp32", 60), ("bf16", 30)])
@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m"])
def test_base_with_its_kernels_and_graphs_on_a_gpu(sampler, dtype, least, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the upsampler's convolutions are not ours
    (network, config), found = load_network(BASE, "cpu"), {}
    on_cpu, on_gpu = Vocoder(network, config, "fp32"), Vocoder(*load_network(BASE, "cuda"), dtype)
    mel = noise_mel(on_cpu, 2, 0.5)
    expected = on_cpu(mel, seed=[0, 1], steps=2, sampler=sampler)
    for name, options in {"graph": {}, "again": {}, "eager": {"on_step": lambda step, x: None}}.items():
        found[name] = snr_db(on_gpu(mel, seed=[0, 1], steps=2, sampler=sampler, **options), expected)
    print(sampler, dtype, found)
    assert on_gpu.engine.graphs is not None
    assert min(found.values()) > least, found


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["words-16k", "drums-22k"])
def test_the_bundled_generators_on_a_gpu(name):
    on_cpu, on_gpu = (Generator.from_pretrained(name, device, "fp32") for device in ("cpu", "cuda"))
    label = on_cpu.config.labels[0]
    expected = on_cpu.generate(label, 2, steps=4, guidance=1.5)
    assert snr_db(on_gpu.generate(label, 2, steps=4, guidance=1.5), expected) > 60


@pytest.mark.gpu
@pytest.mark.parametrize("case", STEPS)
def test_a_training_step_on_a_gpu(tiny_run_config, batches, case, monkeypatch):
    def draw(like, seed, replica):
        shape = (replica.world_size * len(like), *like.shape[1:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return noise[replica.rank * len(like) : (replica.rank + 1) * len(like)].to(like.device)

    monkeypatch.setattr(randomness, "_normal", draw)  # a GPU has other random numbers
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    losses = step_losses(tiny_run_config, batches, case, [torch.device("cuda"), torch.device("cpu")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if "bf16" not in case else 0.1)
