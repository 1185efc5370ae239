"""Captured reverse processes give what they give uncaptured, for every length of their bucket, and are reused."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from audiodiff.diffusion.process import Prediction
from audiodiff.diffusion.samplers import SAMPLERS, Corrector, Langevin
from audiodiff.engine import graphs as graphs_module
from audiodiff.engine.fused import fused
from audiodiff.engine.graphs import CudaGraphCapture, Inputs, Process, ReverseGraphs, bucket
from audiodiff.networks.conditioning import GlobalConditions

HOP = 16
LEVELS = (-4.0, 1.0, float("inf"))


class Loop(NamedTuple):
    """A reverse process of a network."""

    sampler: str
    log_snrs: tuple[float, ...] = LEVELS
    corrector: Corrector | None = None


DDIM, DDPM, CORRECTED = Loop("ddim"), Loop("ddpm"), Loop("heun", corrector=Langevin(2))


class FakeCapture:
    """Captures on the CPU: run once, then run again on the same inputs."""

    def __init__(self):
        self.made = 0

    def __call__(self, run):
        self.made += 1
        run(lambda step: None)
        return run


def reverse(network, loop, inputs, noise, on_step=None):
    x, condition, global_condition = inputs

    def predict(x, log_snr):
        return Prediction(network(x, x.new_full((len(x),), float(log_snr)), condition, global_condition))

    log_snrs = torch.tensor(loop.log_snrs, dtype=torch.float64)
    return SAMPLERS[loop.sampler](predict, x, log_snrs, noise, corrector=loop.corrector, on_step=on_step)


def draw(seed, n_samples, batch=2):
    return torch.randn(batch, 1, n_samples, generator=torch.Generator().manual_seed(seed))


def process(network, loop):
    return Process(partial(reverse, network, loop), loop)


def call(graphs, network, loop, n_frames, *, seed=0, given=None, batch=2, on_step=None):
    """Return what a captured and what the plain loop make of random inputs."""
    x = draw(seed, n_frames * HOP, batch)
    mel = torch.randn(batch, 5, n_frames, generator=torch.Generator().manual_seed(seed + 50))
    with torch.no_grad():
        inputs = Inputs(x, network.encode(mel) if network.plain.normalise_mel else None, given)
        expected = reverse(network, loop, inputs, lambda step: draw(step + 100, x.shape[-1], batch))
    noise = partial(draw_fresh, n_samples=x.shape[-1], batch=batch)
    return graphs(process(network, loop), inputs, noise, on_step), expected


def draw_fresh(step, n_samples, batch):
    return draw(step + 100, n_samples, batch)


@pytest.fixture
def make_graphs(make_fusible, plain_layers):
    """Return a function that builds a fused network and its recordings."""

    def make(kind="diffwave", *, limit=4, **options):
        network = fused(make_fusible(kind, **options), torch.float32)
        return network, ReverseGraphs(network, capture=FakeCapture(), limit=limit)

    return make


def test_buckets_are_few_and_never_much_too_large():
    sizes = [bucket(n) for n in range(1, 5000)]
    assert sizes == sorted(sizes)
    assert all(n <= size <= 1.25 * n for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 4 * 13
    assert [bucket(size) for size in sizes] == sizes


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
    for seed in (1, 2, 3):  # the last call finds what was captured, and other inputs
        result, expected = call(graphs, network, loop, 9, seed=seed)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graphs.made == 1


def test_lengths_of_one_bucket_share_a_recording_and_leave_nothing_behind(make_graphs):
    network, graphs = make_graphs(patch=4)
    for n_frames in (20, 17, 19, 18, 20):
        result, expected = call(graphs, network, DDPM, n_frames, seed=n_frames)
        assert result.shape == (2, 1, n_frames * HOP)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graphs.made == 1
    call(graphs, network, DDPM, 21)
    assert graphs._capture_graphs.made == 2


def test_frame_rate_networks_are_captured_for_the_very_length_when_it_comes_again(make_graphs):
    network, graphs = make_graphs("stft")
    for n_frames, made in [(18, 0), (19, 0), (18, 1), (20, 1), (18, 1), (19, 2)]:
        result, expected = call(graphs, network, DDIM, n_frames)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert graphs._capture_graphs.made == made


def test_what_is_not_pointwise_is_captured_without_padding(make_graphs):
    _, graphs = make_graphs(patch=4, n_mels=0)

    def centred(inputs, noise, on_step):
        return inputs.x - inputs.x.mean()

    for n_frames in (17, 17, 18):
        x = draw(n_frames, n_frames * HOP)
        result = graphs(Process(centred, "centred", is_pointwise=False), Inputs(x), torch.zeros)
        torch.testing.assert_close(result, x - x.mean())
    assert graphs._capture_graphs.made == 2


@pytest.mark.parametrize("kind", ["diffwave", "stft"])
def test_a_callback_sees_each_step_in_memory_of_its_own(kind, make_graphs):
    network, graphs = make_graphs(kind)
    options, seen = {"seed": 3}, []
    for _ in range(3):
        steps = []
        result, _ = call(
            graphs, network, DDPM, 9, on_step=lambda step, x, steps=steps: steps.append((step, x)), **options
        )
        seen.append(steps)
        torch.testing.assert_close(steps[-1][1], result)
    for steps in seen:
        assert [step for step, _ in steps] == [1, 2]
        for (_, x), (_, first) in zip(steps, seen[0], strict=True):
            torch.testing.assert_close(x, first, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(steps[0][1], steps[1][1])


def test_cuda_graphs_are_one_per_step_and_none_is_left_open(monkeypatch):
    """The calls of torch alone, without a GPU: every graph begins once, ends once, and is replayed in order."""
    calls = []

    class Graph:
        def __init__(self):
            self.number = sum(call == "made" for call in calls)
            calls.append("made")

        def capture_begin(self, pool, capture_error_mode):
            calls.append(f"begin {self.number}")

        def capture_end(self):
            calls.append(f"end {self.number}")

        def replay(self):
            calls.append(f"replay {self.number}")

    class Stream(nullcontext):
        def wait_stream(self, other):
            calls.append("wait")

    cuda = SimpleNamespace(
        **{"CUDAGraph": Graph, "Stream": Stream, "graph_pool_handle": tuple, "current_stream": Stream},
        **{"device": nullcontext, "stream": lambda stream: stream, "synchronize": lambda: None},
    )
    monkeypatch.setattr(graphs_module, "torch", SimpleNamespace(cuda=cuda))
    capture = CudaGraphCapture("cuda:0")

    def run(cut, fail=False):
        for step in (1, 2):
            calls.append(f"step {step}")
            cut(step)
            if fail and len(calls) > 10:
                raise ValueError("wrong")
        calls.append("last")

    replay = capture(run)
    captured = ["made", "begin 0", "step 1", "end 0", "made", "begin 1", "step 2", "end 1", "made", "begin 2", "last"]
    assert calls == ["wait", *["step 1", "step 2", "last"] * 2, *captured, "end 2", "wait"]
    calls.clear()
    replay(lambda step: calls.append(f"saw {step}"))
    assert calls == ["replay 0", "saw 1", "replay 1", "saw 2", "replay 2"]
    calls.clear()
    with pytest.raises(ValueError, match="wrong"):
        capture(partial(run, fail=True))
    begun, ended = ([c for c in calls if c.startswith(kind)] for kind in ("begin", "end"))
    assert len(begun) == len(ended) > 0


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
    assert graphs._capture_graphs.made == 1
    call(graphs, network, DDIM, 9, given=None)
    assert graphs._capture_graphs.made == 2


def test_whatever_is_constant_in_a_recording_tells_it_apart(make_graphs):
    network, graphs = make_graphs(patch=4, limit=9)
    loops = [DDIM, DDPM, Loop("ddim", (-4.0, 2.0, float("inf"))), Loop("ddim", LEVELS, Langevin())]
    for loop in loops * 2:
        result, expected = call(graphs, network, loop, 9)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert graphs._capture_graphs.made == 4
    call(graphs, network, DDIM, 9, batch=1)
    assert graphs._capture_graphs.made == 5


def test_the_recording_not_used_for_longest_goes_first(make_graphs):
    network, graphs = make_graphs(patch=4, limit=2)
    for n_frames, made in [(8, 1), (16, 2), (8, 2), (32, 3), (8, 3), (16, 4)]:
        call(graphs, network, DDIM, n_frames)
        assert graphs._capture_graphs.made == made
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
    graphs, given = ReverseGraphs(on_gpu), plain.embed(GlobalConditions(torch.tensor([0, 1]))).detach()
    for n_frames in (40, 38, 39, 40, 38, 39, 40):  # fewer than a bucket, and again
        x, mel = draw(n_frames, n_frames * 64), torch.randn(2, 5, n_frames)
        noise = {step: draw(step + 100, n_frames * 64) for step in range(4)}
        with torch.no_grad():
            expected = reverse(plain, loop, Inputs(x, plain.encode(mel), given), noise.__getitem__)
            inputs = Inputs(x.cuda(), on_gpu.encode(mel.cuda()), given.cuda())
        result = graphs(process(on_gpu, loop), inputs, lambda step, noise=noise: noise[step].cuda())
        assert relative_error(result, expected) < 1e-4
    assert len(graphs) == (1 if kind == "diffwave" else 3)


@pytest.mark.gpu
def test_cuda_graphs_of_a_plain_network_work_too(make_fusible, relative_error):
    plain = make_fusible(channels=160, n_mels=0).cuda()
    graphs, x = ReverseGraphs(plain), draw(0, 4000).cuda()
    with torch.no_grad():
        expected = reverse(plain, DDIM, Inputs(x), torch.zeros)
    for _ in range(3):  # plain, captured, replayed
        assert relative_error(graphs(process(plain, DDIM), Inputs(x), torch.zeros), expected) < 1e-5
    assert relative_error(graphs(process(plain, DDIM), Inputs(x.flip(2)), torch.zeros), expected) > 1e-2
