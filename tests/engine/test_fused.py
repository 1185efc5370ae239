"""Which networks get fused layers, and where; what the fused ones keep of the plain ones."""

import logging

import pytest
import torch

from audiodiff.engine import fused as fusing
from audiodiff.engine.cuda import FusedStack, pack_stack
from audiodiff.engine.fused import accelerated, fused, why_not_fused
from audiodiff.networks.conditioning import GlobalConditions


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that pretends a GPU of some compute capability, with or without Triton."""

    def pretend(capability=(9, 0), triton=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(fusing, "has_triton", lambda: triton)

    return pretend


def test_a_gpu_with_triton_can_run_fused_layers(gpu, make_fusible):
    gpu()
    assert why_not_fused(make_fusible(), "cuda") is None
    assert why_not_fused(make_fusible("stft"), "cuda:1") is None


@pytest.mark.parametrize(
    ("channels", "device", "pretence", "reason"),
    [
        (16, "cuda", {"capability": (7, 5)}, "7.5 is below 8.0"),
        (16, "cuda", {"triton": False}, "Triton is not installed"),
        (16, "cpu", {}, "no CUDA device"),
        (144, "cuda", {}, "144 channels are more than 128"),
    ],
)
def test_what_stands_in_the_way_is_named(channels, device, pretence, reason, gpu, make_fusible):
    gpu(**pretence)
    assert reason in why_not_fused(make_fusible(channels=channels, layers=1), device)


@pytest.mark.parametrize("kind", ["diffwave", "stft"])
def test_layers_that_the_kernels_do_not_compute_are_left_alone(kind, gpu, make_fusible):
    gpu()
    network = make_fusible(kind, activation="rbf")
    assert why_not_fused(network, "cuda") == "its layers are not gated"
    with pytest.raises(TypeError, match="supports gated layers only"):
        pack_stack(network.stack, torch.bfloat16)


def test_an_unknown_network_stays_as_it_is(gpu, make_fusible):
    gpu()
    assert "Linear" in why_not_fused(torch.nn.Linear(2, 2), "cuda")
    learned = make_fusible()
    learned.variance = torch.nn.Linear(16, 1)
    assert "learned variance" in why_not_fused(learned, "cuda")


def test_without_a_gpu_the_network_itself_is_returned_and_one_line_says_why(make_fusible, caplog):
    network = make_fusible()
    fusing._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="audiodiff.engine.fused"):
        assert accelerated(network) is network
        assert accelerated(network) is network
    assert [record.message for record in caplog.records] == ["no fused layers: there is no CUDA device"]


def test_with_a_gpu_a_fused_network_is_returned(make_fusible, monkeypatch):
    monkeypatch.setattr(fusing, "why_not_fused", lambda network, device: None)
    network = make_fusible()
    fast = accelerated(network, torch.float16)
    assert fast is not network
    assert fast.layers.stack.packed.taps.dtype == torch.float16
    assert not fast.layers.stack.tf32
    assert fused(network, torch.float32, tf32=True).layers.stack.tf32


@pytest.mark.parametrize(("kind", "options"), [("diffwave", {"patch": 4}), ("stft", {})])
def test_a_fused_network_is_called_as_the_plain_one_and_reaches_as_far(kind, options, make_fusible, plain_layers):
    plain = make_fusible(kind, **options)
    fast = fused(plain)
    assert fast.receptive_field == plain.receptive_field
    assert next(fast.parameters()).device == next(plain.parameters()).device
    x, log_snr = torch.randn(1, 1, 64), torch.zeros(1)
    with pytest.raises(TypeError, match="without labels"):
        fast(x, log_snr, None, torch.zeros(1, 12))
    prediction = fast(x, log_snr, fast.encode(torch.randn(1, 5, 4)))
    assert prediction.shape == x.shape
    assert prediction.dtype == torch.float32
    assert not prediction.requires_grad


def test_every_input_of_a_fused_network_counts(make_fusible, plain_layers):
    fast = fused(make_fusible(labels=("a", "b"), patch=4), torch.float32)
    x, log_snr = torch.randn(1, 1, 64), torch.zeros(1)
    first, second = (fast.embed(GlobalConditions(torch.tensor([label]))) for label in (0, 1))
    condition = fast.encode(torch.randn(1, 5, 4))
    base = fast(x, log_snr, condition, first)
    for changed in [
        (x.flip(2), log_snr, condition, first),
        (x, log_snr + 4, condition, first),
        (x, log_snr, fast.encode(torch.randn(1, 5, 4)), first),
        (x, log_snr, condition, second),
        (x, log_snr, condition, None),
        (x, log_snr, None, first),
    ]:
        assert (fast(*changed) - base).abs().max() > 1e-3


def test_the_pair_of_vectors_that_carries_the_noise_level_keeps_what_sixteen_bits_would_lose(make_fusible):
    packed = pack_stack(make_fusible().stack, torch.bfloat16)
    level = torch.randn(2, 12)
    exact = torch.nn.functional.linear(level, packed.level, packed.offset).view(2, 4, 3, 32)
    pairs = FusedStack(packed)._level_vectors(level)
    assert pairs.shape == (2, 4, 6, 32)
    assert pairs.dtype == torch.bfloat16
    torch.testing.assert_close(pairs.float().unflatten(2, (3, 2)).sum(3), exact, rtol=2**-15, atol=2**-15)


@pytest.mark.parametrize("options", [{}, {"upsampling": "transposed", "upsampling_factors": (4, 4)}])
def test_a_condition_of_another_length_is_refused(options, make_fusible, plain_layers):
    fast = fused(make_fusible(**options))
    with pytest.raises(ValueError, match="positions"):
        fast(torch.randn(1, 1, 65), torch.zeros(1), fast.encode(torch.randn(1, 5, 4)))


def test_autocast_around_a_fused_network_changes_nothing(make_fusible, plain_layers):
    fast = fused(make_fusible(n_mels=0), torch.float32)
    x, log_snr = torch.randn(1, 1, 64), torch.zeros(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fast(x, log_snr)
    assert torch.equal(inside, fast(x, log_snr))


@pytest.mark.parametrize(
    "options",
    [{"patch": 4}, {"upsampling": "transposed"}, {"upsampling": "transposed-per-layer"}],
    ids=["frames", "positions", "positions per layer"],
)
def test_a_piece_of_a_condition_conditions_a_piece_of_the_signal(options, make_fusible, plain_layers):
    if "upsampling" in options:
        options = options | {"upsampling_factors": (4, 4)}
    plain = make_fusible(layers=1, **options)
    fast, rows = fused(plain, torch.float32), plain.stack.conditioner.positions_per_frame
    x, log_snr, mel = torch.randn(2, 1, 8 * 16), torch.zeros(2), torch.randn(2, 5, 8)
    whole = fast(x, log_snr, fast.encode(mel))
    piece = fast(x[..., 32:96], log_snr, fast.encode(mel)[:, 2 * rows : 6 * rows])  # not contiguous
    torch.testing.assert_close(piece[..., 8:-8], whole[..., 40:88], rtol=1e-5, atol=1e-5)
