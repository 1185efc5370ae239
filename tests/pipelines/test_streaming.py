"""Long audio in chunks, and audio while the mel still arrives: equal to the whole, and as early as it is said to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from audiodiff import Vocoder
from audiodiff.config import (
    DiffusionConfig,
    EmbeddingConfig,
    MelConfig,
    ModelConfig,
    NetworkConfig,
    SynthesisConfig,
    WhiteningConfig,
)
from audiodiff.engine.choose import PlainEngine
from audiodiff.errors import ConfigError, MelError
from audiodiff.networks import build_network

RATE, HOP = 8000, 64
EMBEDDING = EmbeddingConfig(width=16, centres=8)
NETWORKS = {
    "stft": NetworkConfig(kind="stft", channels=16, layers=3, n_fft=256, hop_length=HOP, embedding=EMBEDDING),
    "causal": NetworkConfig(
        kind="stft",
        channels=16,
        layers=3,
        n_fft=192,
        hop_length=HOP,
        look_ahead=1,
        mel_encoder_layers=2,
        branches=({"n_fft": 64, "hop_length": 16, "channels": 8, "layers": 2},),
        embedding=EMBEDDING,
    ),
    "diffwave": NetworkConfig(channels=8, layers=6, dilation_cycle=6, embedding=EMBEDDING),
    "upsampled": NetworkConfig(
        channels=8, layers=3, upsampling="transposed", upsampling_factors=(8, 8), embedding=EMBEDDING
    ),
    "unet": NetworkConfig(
        kind="unet", channels=8, patch=4, factors=(2, 4), multipliers=(1, 2, 3), blocks=(1, 1, 1), embedding=EMBEDDING
    ),
}
ATTENTION = NetworkConfig(
    **{"kind": "unet", "channels": 8, "patch": 4, "factors": (4, 4), "multipliers": (1, 2, 4), "blocks": (1, 1, 1)},
    attention=1,
    embedding=EMBEDDING,
)


TOLERANCES = {"phase-gradient": 1e-4}
"""Of what starts there: phases are sums of many differences, and rounding grows where the spectrum is faint (80 dB)."""


def make(
    network: str, start: str = "noise", whitening: str = "spectral", centre: str = "hop", variance: str = "fixed"
) -> Vocoder:
    mel = MelConfig(
        sample_rate=RATE, n_fft=256, hop_length=HOP, win_length=256, n_mels=20, f_min=0, f_max=4000, centre=centre
    )
    first = -6.0 if start == "noise" else 2.0
    config = ModelConfig(
        sample_rate=RATE,
        mel=mel,
        network=ATTENTION if network == "attention" else NETWORKS[network],
        whitening=WhiteningConfig(kind=whitening, exponent=0.5),
        diffusion=DiffusionConfig(variance=variance),
        synthesis=SynthesisConfig(steps=3, start=start, start_log_snr=first, griffin_lim_iterations=4),
    )
    torch.manual_seed(0)
    built = build_network(config).eval()
    for projection in filter(None, (built.output, built.variance)):  # which start at zero
        for parameter in projection.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return Vocoder(built, config, "fp32")


def difference(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


@pytest.fixture(scope="module")
def audio(voice) -> Tensor:
    return torch.from_numpy(voice(1.0, RATE))


def whole(vocoder: Vocoder, mel: Tensor, **changes) -> Tensor:
    """Run the plain network on the plain signal, without chunks, streams or engines."""
    from audiodiff.audio.mel import align_to_hops

    with torch.inference_mode():
        frames = align_to_hops(mel.unsqueeze(0), vocoder.mel_config)
        return vocoder.synthesise(frames, [5], settings=vocoder.settings(changes))[0, 0]


@pytest.mark.parametrize("network", [*NETWORKS, "attention"])
@pytest.mark.parametrize("start", ["noise", "griffin-lim", "phase-gradient"])
@pytest.mark.parametrize(
    "sampler", ["ddim", "dpmpp_2m", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ddpm", "heun"))]
)
def test_chunks_make_what_the_whole_makes(network, start, sampler, audio):
    vocoder = make(network, start)
    mel = vocoder.mel(audio)
    expected = whole(vocoder, mel, sampler=sampler)
    for seconds in (None, 0.05, 0.7, 3.0):
        made = vocoder(mel, seed=5, chunk_seconds=seconds, sampler=sampler)
        assert made.shape == expected.shape
        assert difference(made, expected) < TOLERANCES.get(start, 3e-5)


@pytest.mark.parametrize("variance", ["fixed", "learned"])
@pytest.mark.parametrize("network", NETWORKS)
def test_corrected_chunks_make_what_the_whole_makes_with_either_variance(network, variance, audio):
    vocoder = make(network, variance=variance)
    mel = vocoder.mel(audio[: RATE // 2])
    for changes in ({"sampler": "ddpm"}, {"sampler": "heun", "corrector_steps": 2}, {"corrector_steps": 1}):
        expected = whole(vocoder, mel, **changes)
        for seconds in (None, 0.05):
            assert difference(vocoder(mel, seed=5, chunk_seconds=seconds, **changes), expected) < 3e-5


def test_a_learned_variance_serves_ddpm_alone_and_takes_the_plain_engine(audio):
    learned, fixed = make("diffwave", variance="learned"), make("diffwave")
    assert isinstance(learned.engine, PlainEngine)
    assert not isinstance(fixed.engine, PlainEngine)
    assert fixed.network.variance is None
    state = {name: value for name, value in learned.network.state_dict().items() if not name.startswith("variance")}
    fixed.network.load_state_dict(state)
    mel = learned.mel(audio)
    assert difference(whole(learned, mel, sampler="ddpm"), whole(fixed, mel, sampler="ddpm")) > 1e-2
    for sampler in ("ddim", "heun", "dpmpp_2m_sde"):
        assert difference(whole(learned, mel, sampler=sampler), whole(fixed, mel, sampler=sampler)) < 1e-5


@pytest.mark.parametrize("whitening", ["none", "energy", "spectral"])
@pytest.mark.parametrize("centre", ["hop", "frame"])
def test_a_stream_makes_what_the_whole_makes(whitening, centre, audio):
    vocoder = make("stft", "griffin-lim", whitening, centre)
    mel = vocoder.mel(audio)
    expected = whole(vocoder, mel)
    for lengths in ([1] * mel.shape[-1], [100, mel.shape[-1] - 100]):
        pieces = list(vocoder.stream(mel.split(lengths, dim=-1), seed=5, chunk_seconds=0.1))
        assert len(pieces) > 2
        assert difference(torch.cat(pieces), expected) < 3e-5


def test_chunks_grow_where_the_mel_is_ahead(audio):
    vocoder = make("causal")
    mel = vocoder.mel(torch.cat([audio] * 4))
    slow, fast = (
        [len(piece) // HOP for piece in vocoder.stream(mel.split(n, dim=-1), chunk_seconds=0.02)]
        for n in (1, mel.shape[-1])
    )
    assert set(slow[1:-1]) == {2}  # the first waits for its look-ahead, the last brings what is left
    assert max(fast) == RATE // HOP
    assert len(fast) < len(slow) / 10
    assert sum(slow) == sum(fast) == mel.shape[-1]


@pytest.mark.parametrize("network", ["stft", "causal", "diffwave"])
@pytest.mark.parametrize("changes", [{"steps": 1}, {"steps": 3}, {"sampler": "heun"}, {"sampler": "dpmpp_2m"}], ids=str)
def test_mel_consistency_is_the_same_whole_in_chunks_and_streamed(network, changes, audio):
    changes |= {"mel_consistency": True}
    vocoder = make(network)
    mel = vocoder.mel(audio)
    expected = whole(vocoder, mel, **changes)
    for seconds in (None, 0.05, 0.7):
        assert difference(vocoder(mel, seed=5, chunk_seconds=seconds, **changes), expected) < 3e-5
    pieces = list(vocoder.stream(mel.split(3, dim=-1), seed=5, chunk_seconds=0.1, **changes))
    assert difference(torch.cat(pieces), expected) < 3e-5


@pytest.mark.parametrize("steps", [1, 4])
def test_with_mel_consistency_the_mel_is_nearer_to_the_given_one(steps, audio):
    vocoder = make("stft")
    mel = vocoder.mel(audio)
    without, with_it = (
        (vocoder.mel(vocoder(mel, steps=steps, mel_consistency=consistent)) - mel).abs().mean()
        for consistent in (False, True)
    )
    assert with_it < without / 2
    given = vocoder.with_mel_convention(None)
    assert torch.equal(given(mel, steps=steps), vocoder(mel, steps=steps, mel_consistency=False))  # the default


@pytest.mark.parametrize("changes", [{"steps": 1}, {"steps": 2}], ids=str)
def test_mel_consistency_looks_further_ahead_and_says_so(changes, audio):
    changes |= {"mel_consistency": True}
    check_latency("stft", "noise", "hop", 0.05, audio, **changes)
    vocoder = make("stft")
    assert vocoder.latency(HOP / RATE, **changes) > vocoder.latency(HOP / RATE, steps=changes["steps"])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("start", ["noise", "griffin-lim", "phase-gradient"])
@pytest.mark.parametrize(("centre", "chunk_seconds"), [("hop", 0.05), ("frame", 0.05), ("hop", 0.3)])
def test_a_stream_is_as_late_as_its_latency_says(network, start, centre, chunk_seconds, audio):
    check_latency(network, start, centre, chunk_seconds, audio)


@pytest.mark.parametrize("changes", [{"sampler": "heun"}, {"corrector_steps": 1}], ids=str)
def test_further_network_calls_make_a_stream_later_and_it_says_so(changes, audio):
    check_latency("stft", "noise", "hop", 0.05, audio, **changes)
    vocoder = make("stft")
    assert vocoder.latency(0.05, **changes) > vocoder.latency(0.05)


def check_latency(network, start, centre, chunk_seconds, audio, **changes) -> None:
    vocoder = make(network, start, centre=centre)
    stated = vocoder.latency(chunk_seconds, **changes)
    mel = vocoder.mel(torch.cat([audio] * 6)[: int((stated + 4 * max(chunk_seconds, 0.2)) * RATE)])
    arrived, latest = 0, 0

    def frames() -> Iterator[Tensor]:
        nonlocal arrived
        for frame in mel.split(1, dim=-1):
            arrived += 1
            yield frame

    heard = 0
    for piece in vocoder.stream(frames(), chunk_seconds=chunk_seconds, **changes):
        if arrived < mel.shape[-1]:  # at the end everything comes out at once
            latest = max(latest, arrived * HOP - heard)
        heard += len(piece)
    assert latest / RATE == pytest.approx(stated, abs=1e-9)


def test_a_stream_refuses_what_does_not_fit(audio):
    vocoder = make("stft")
    mel = vocoder.mel(audio)
    assert list(vocoder.stream([])) == []
    with pytest.raises(MelError, match="a stream takes"):
        list(vocoder.stream([mel.unsqueeze(0)]))
    with pytest.raises(MelError, match="shape"):
        list(vocoder.stream([mel[:10]]))
    for bad, message in ((0.0, "above 0"), (-1.0, "above 0"), (1e-6, "at least a hop")):
        with pytest.raises(ConfigError, match=message):
            vocoder(mel, chunk_seconds=bad)
        with pytest.raises(ConfigError, match=message):
            list(vocoder.stream([mel], chunk_seconds=bad))


def test_a_network_that_attends_to_the_whole_mel_refuses_to_begin_before_its_end(audio):
    vocoder = make("attention")
    for impossible in (lambda: list(vocoder.stream([vocoder.mel(audio)])), vocoder.latency):
        with pytest.raises(ConfigError, match=r"attends to the whole mel .* train one with network.attention 0"):
            impossible()


def test_a_stream_of_one_frame_that_is_no_block_is_refused():
    vocoder = make("stft", centre="frame")
    with pytest.raises(MelError, match="at least 2"):
        list(vocoder.stream([torch.full((20, 1), -5.0)]))


def test_the_precision_is_what_was_asked_for(audio):
    single = make("diffwave")
    half = single.with_dtype("bf16")
    mel = single.mel(audio)
    assert (single.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert 1e-4 < difference(half(mel), single(mel)) < 0.1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_recorded_loops_serve_short_mels(sampler, audio):
    """What a GPU records is played back here by calling it again."""
    from audiodiff.engine.graphs import ReverseGraphs

    vocoder = make("diffwave", "griffin-lim")
    mel = vocoder.mel(audio)
    expected = vocoder(mel, seed=5, sampler=sampler)
    plays = []

    def capture(run):
        def replay(on_step):
            plays.append(sampler)
            run(on_step)

        run(lambda step: None)
        return replay

    vocoder.engine = PlainEngine(
        vocoder.network,
        vocoder.config,
        torch.float32,
        vocoder.device,
        ReverseGraphs(vocoder.network, capture=capture),
    )
    assert difference(vocoder(mel, seed=5, sampler=sampler), expected) < 3e-5  # the first of a length is not captured
    for _ in range(2):
        assert difference(vocoder(mel, seed=5, sampler=sampler), expected) < 3e-5
    assert len(plays) == 2
    assert difference(vocoder(mel, seed=5, sampler=sampler, chunk_seconds=0.2), expected) < 3e-5
    assert len(plays) == 2  # chunks are walked one by one
