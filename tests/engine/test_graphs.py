"""Recorded reverse loops give what the loop gives, for every length of their bucket, and are kept and reused."""

import pytest
import torch

from audiodiff.diffusion.process import Prediction
from audiodiff.diffusion.samplers import SAMPLERS, Langevin
from audiodiff.engine.fused import fused
from audiodiff.engine.graphs import CapturedGraph, Inputs, Process, ReverseGraphs, bucket, reverse
from audiodiff.networks.conditioning import GlobalConditions

HOP = 16
LEVELS = (-4.0, 1.0, float("inf"))
DDIM, DDPM = Process("ddim", LEVELS), Process("ddpm", LEVELS)
CORRECTED = Process("heun", LEVELS, corrector=Langevin(2))


class FakeCapture:
    """Records on the CPU as a CUDA graph does: run once, then run again on the same inputs, into the same output."""

    def __init__(self):
        self.made = 0

    def __call__(self, run):
        self.made += 1
        output = run().clone()
        return CapturedGraph(output, lambda: output.copy_(run()))


def draw(seed, n_samples, batch=2):
    return torch.randn(batch, 1, n_samples, generator=torch.Generator().manual_seed(seed))


def call(graphs, network, loop, n_frames, *, seed=0, given=None, batch=2):
    """Return what a recording and what the plain loop make of random inputs."""
    x = draw(seed, n_frames * HOP, batch)
    mel = torch.randn(batch, 5, n_frames, generator=torch.Generator().manual_seed(seed + 50))
    with torch.no_grad():
        inputs = Inputs(x, network.encode(mel) if network.plain.normalise_mel else None, given)
        expected = reverse(network, "epsilon", loop, inputs, lambda step: draw(step + 100, x.shape[-1], batch))
    return graphs(loop, inputs, lambda step: draw(step + 100, x.shape[-1], batch)), expected


@pytest.fixture
def make_graphs(make_fusible, plain_layers):
    """Return a function that builds a fused network and its recordings."""

    def make(kind="diffwave", *, limit=4, **options):
        network = fused(make_fusible(kind, **options), torch.float32)
        return network, ReverseGraphs(network, "epsilon", capture=FakeCapture(), limit=limit)

    return make


def test_buckets_are_few_and_never_much_too_large():
    sizes = [bucket(n) for n in range(1, 5000)]
    assert sizes == sorted(sizes)
    assert all(n <= size <= 1.25 * n for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 4 * 13
    assert [bucket(size) for size in sizes] == sizes


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_loop_is_that_of_the_sampler(sampler, make_fusible):
    network = make_fusible(n_mels=0, patch=4)
    x = draw(0, 64)

    def predict(x, log_snr):
        return Prediction(network(x, log_snr.to(x).expand(len(x))))

    def noise(step):
        return draw(step, 64)

    log_snr = torch.tensor(LEVELS, dtype=torch.float64)
    with torch.no_grad():
        expected = SAMPLERS[sampler](predict, x, log_snr, noise)
        result = reverse(network, "epsilon", Process(sampler, LEVELS), Inputs(x), noise)
        corrected = reverse(network, "epsilon", Process(sampler, LEVELS, Langevin()), Inputs(x), noise)
        expected_corrected = SAMPLERS[sampler](predict, x, log_snr, noise, corrector=Langevin())
    assert torch.equal(result, expected)
    assert torch.equal(corrected, expected_corrected)
    assert not torch.equal(corrected, expected)


@pytest.mark.parametrize("target", ["v", "x0"])
def test_the_loop_knows_what_the_network_predicts(target, make_fusible):
    network = make_fusible(n_mels=0, patch=4)
    with torch.no_grad():
        results = [
            reverse(network, t, DDIM, Inputs(draw(0, 64)), lambda step: draw(step, 64)) for t in ("epsilon", target)
        ]
    assert not torch.allclose(*results)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("diffwave", {"patch": 4}),
        ("diffwave", {"n_mels": 0, "patch": 4}),
        ("diffwave", {"upsampling": "transposed-per-layer", "upsampling_factors": (4, 4)}),
        ("stft", {}),
    ],
)
@pytest.mark.parametrize("loop", [DDIM, DDPM, CORRECTED], ids=["ddim", "ddpm", "heun corrected"])
def test_a_recording_gives_what_the_loop_gives(loop, kind, options, make_graphs):
    network, graphs = make_graphs(kind, **options)
    for seed in (1, 2):  # the second call finds the recording, and other inputs
        result, expected = call(graphs, network, loop, 9, seed=seed)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graph.made == 1


def test_lengths_of_one_bucket_share_a_recording_and_leave_nothing_behind(make_graphs):
    network, graphs = make_graphs(patch=4)
    for n_frames in (20, 17, 19, 18, 20):
        result, expected = call(graphs, network, DDPM, n_frames, seed=n_frames)
        assert result.shape == (2, 1, n_frames * HOP)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graph.made == 1
    call(graphs, network, DDPM, 21)
    assert graphs._capture_graph.made == 2


def test_frame_rate_networks_are_recorded_for_the_very_length(make_graphs):
    network, graphs = make_graphs("stft")
    for n_frames in (18, 19, 18):
        result, expected = call(graphs, network, DDIM, n_frames)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graph.made == 2


def test_a_result_is_not_overwritten_by_the_next_call(make_graphs):
    network, graphs = make_graphs(patch=4)
    result, _ = call(graphs, network, DDIM, 9, seed=1)
    kept = result.clone()
    call(graphs, network, DDIM, 9, seed=2)
    assert torch.equal(result, kept)


def test_labels_are_inputs_of_a_recording(make_graphs):
    network, graphs = make_graphs(patch=4, labels=("a", "b", "c"))
    for label in (torch.tensor([0, 2]), torch.tensor([1, 0])):
        given = network.embed(GlobalConditions(label))
        result, expected = call(graphs, network, DDIM, 9, given=given)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graph.made == 1
    call(graphs, network, DDIM, 9, given=None)
    assert graphs._capture_graph.made == 2


def test_whatever_is_constant_in_a_recording_tells_it_apart(make_graphs):
    network, graphs = make_graphs(patch=4, limit=9)
    loops = [DDIM, DDPM, Process("ddim", (-4.0, 2.0, float("inf"))), Process("ddim", LEVELS, Langevin())]
    for loop in loops * 2:
        result, expected = call(graphs, network, loop, 9)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graph.made == 4
    call(graphs, network, DDIM, 9, batch=1)
    assert graphs._capture_graph.made == 5


def test_the_recording_not_used_for_longest_goes_first(make_graphs):
    network, graphs = make_graphs(patch=4, limit=2)
    for n_frames, made in [(8, 1), (16, 2), (8, 2), (32, 3), (8, 3), (16, 4)]:
        call(graphs, network, DDIM, n_frames)
        assert graphs._capture_graph.made == made
        assert len(graphs) <= 2


def test_the_layers_see_whole_signals_again_after_a_recording(make_graphs):
    network, graphs = make_graphs(patch=4)
    call(graphs, network, DDIM, 9)
    assert network.layers.stack.n_valid is None


@pytest.mark.gpu
@pytest.mark.parametrize("loop", [DDIM, DDPM, CORRECTED], ids=["ddim", "ddpm", "heun corrected"])
@pytest.mark.parametrize("kind", ["diffwave", "stft"])
def test_cuda_graphs_give_what_the_loop_gives_on_the_cpu(kind, loop, make_fusible, relative_error):
    plain = make_fusible(kind, channels=64, labels=("a", "b"), hop=64)
    on_gpu = fused(make_fusible(kind, channels=64, labels=("a", "b"), hop=64).cuda(), torch.float32)
    graphs, given = ReverseGraphs(on_gpu, "epsilon"), plain.embed(GlobalConditions(torch.tensor([0, 1]))).detach()
    for n_frames in (40, 38, 39, 40):  # fewer than a bucket, and again
        x, mel = draw(n_frames, n_frames * 64), torch.randn(2, 5, n_frames)
        noise = {step: draw(step + 100, n_frames * 64) for step in range(4)}
        with torch.no_grad():
            expected = reverse(plain, "epsilon", loop, Inputs(x, plain.encode(mel), given), noise.__getitem__)
            inputs = Inputs(x.cuda(), on_gpu.encode(mel.cuda()), given.cuda())
        result = graphs(loop, inputs, lambda step, noise=noise: noise[step].cuda())
        assert relative_error(result, expected) < 1e-4
    assert len(graphs) == (1 if kind == "diffwave" else 3)


@pytest.mark.gpu
def test_cuda_graphs_of_a_plain_network_work_too(make_fusible, relative_error):
    plain = make_fusible(channels=160, n_mels=0).cuda()
    graphs, x = ReverseGraphs(plain, "epsilon"), draw(0, 4000).cuda()
    with torch.no_grad():
        expected = reverse(plain, "epsilon", DDIM, Inputs(x), torch.zeros)
    assert relative_error(graphs(DDIM, Inputs(x), torch.zeros), expected) < 1e-5
    assert relative_error(graphs(DDIM, Inputs(x.flip(2)), torch.zeros), expected) > 1e-2
