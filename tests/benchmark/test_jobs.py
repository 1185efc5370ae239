"""Jobs measure what they say: models by name, whole calls, the same weights on both sides."""

import copy
import math
import sys
from functools import partial

import pytest
import torch

from audiodiff.benchmark.baseline import baseline_synthesis, baseline_training_step, build_pair, relative_difference
from audiodiff.benchmark.comparison import BASELINE_KEY, OURS, SynthesisComparison, TrainingComparison
from audiodiff.benchmark.inputs import BASE, load_network, load_vocoder, noise_crops, noise_mel
from audiodiff.benchmark.jobs import Environment, MachineJob, PrecisionJob, StreamingJob, SynthesisJob, signal_to_noise
from audiodiff.benchmark.machine import MemoryMonitor, RooflineProbe
from audiodiff.benchmark.results import Memory
from audiodiff.benchmark.timing import TimingOptions
from audiodiff.benchmark.training import TrainingJob, TrainingLimits, largest_batch, step_factory
from audiodiff.diffusion.noise import position_noise
from audiodiff.errors import ConfigError, ModelError
from audiodiff.pipelines import Vocoder

CPU = torch.device("cpu")
ENVIRONMENT = Environment("cpu", 1, TimingOptions(2, 1.0))


def test_base_is_the_published_size():
    network, config = load_network(BASE, "cpu")
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(2.62e6, rel=0.01)
    assert (config.network.channels, config.network.layers) == (64, 30)


def test_random_weights_predict_noise_of_unit_variance(small_base):
    network, config = load_network(BASE, "cpu")
    x = torch.randn(1, 1, 40 * config.hop_length)
    with torch.no_grad():
        predicted = network(x, torch.zeros(1), network.encode(torch.rand(1, 80, 40)))
    assert predicted.std() == pytest.approx(1, abs=0.3)


def test_an_unknown_model_and_a_generator_are_refused(tiny_generator_folder):
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        load_network("nowhere", "cpu")
    with pytest.raises(ModelError, match="is not a vocoder"):
        load_vocoder(str(tiny_generator_folder), "cpu", "fp32")


@pytest.mark.parametrize("seconds", [0.01, 0.5, 25.0])
def test_mels_are_of_noise_and_as_long_as_wanted(seconds, tiny_vocoder_folder):
    vocoder = load_vocoder(str(tiny_vocoder_folder), "cpu", "fp32")
    mel = noise_mel(vocoder, 2, seconds)
    assert mel.shape == (2, 20, math.ceil(seconds * 8000 / 64))
    assert not torch.equal(mel[0], mel[1])


def test_synthesis_job(tiny_vocoder_folder):
    job = SynthesisJob(ENVIRONMENT, str(tiny_vocoder_folder), "fp32", 3, 0.5)
    row, other = job.run(), SynthesisJob(ENVIRONMENT, str(tiny_vocoder_folder), "fp32", 3, 0.5, steps=5).run()
    assert (row.batch, row.steps, other.steps) == (3, 2, 5)
    assert row.clip_seconds == pytest.approx(63 * 64 / 8000)
    assert row.seconds.repeats == 2
    assert row.real_time_factor.median == pytest.approx(row.seconds.median / (3 * row.clip_seconds))
    assert other.flops / row.flops == pytest.approx(2.5, rel=0.1)
    assert row.rooflines["fp32"].matmul_rate.repeats == 2  # one after each round
    assert row.rooflines["fp32"].matmul_rate.low > 1e8
    assert row.relative_cost is None
    assert row.memory.peak is None or row.memory.peak >= row.memory.before


def test_a_long_clip_takes_turns_with_short_ones(tiny_vocoder_folder, monkeypatch):
    made, original = [], Vocoder.__call__

    def call(self, mel, **settings):
        made.append(mel.shape[-1])
        return original(self, mel, **settings)

    monkeypatch.setattr(Vocoder, "__call__", call)
    monkeypatch.setattr("audiodiff.benchmark.jobs.REFERENCE_SECONDS", 0.1)
    monkeypatch.setattr("audiodiff.benchmark.jobs.warm_up", lambda *_: None)
    environment = Environment("cpu", 1, TimingOptions(1, 1.0))
    row = SynthesisJob(environment, str(tiny_vocoder_folder), "fp32", 1, 4.0, steps=1).run()
    assert made == [13, 13, 500, 13, 13]  # a twentieth before and after, in clips of 0.1 s
    assert 0.01 < row.relative_cost.median < 10


def test_the_memory_of_a_row_is_not_that_of_its_roofline():
    order = []

    class Monitor:
        def memory(self):
            order.append("memory")
            return Memory(before=1, peak=2)

    probe = RooflineProbe(CPU, ("fp32",), Monitor())
    probe._second_run = lambda run: order.append("run") or 1.0
    probe()
    probe()
    assert order == ["memory", *["run"] * 4]
    assert probe.memory == Memory(before=1, peak=2)
    assert probe.rooflines()["fp32"].matmul_rate.median == 2.0 * 64**3


def test_streaming_job(tiny_vocoder_folder):
    job = StreamingJob(ENVIRONMENT, str(tiny_vocoder_folder), "fp32", 0.1, steps=1)
    assert str(job).endswith(", fp32, chunks of 100 ms, 1 thread")
    row = job.run()
    vocoder = load_vocoder(str(tiny_vocoder_folder), "cpu", "fp32")
    assert (row.threads, row.steps, row.chunk_seconds) == (1, 1, 0.1)
    assert row.latency_seconds == vocoder.latency(0.1, steps=1) > 0.1
    assert row.clip_seconds == pytest.approx(2.0)
    assert row.seconds.repeats == row.offline_seconds.repeats
    assert row.cost_ratio.median == pytest.approx(row.seconds.median / row.offline_seconds.median)
    assert row.real_time_factor.median == pytest.approx(row.seconds.median / 2)
    assert row.offline_real_time_factor.low == pytest.approx(row.offline_seconds.low / 2)


def test_a_stream_is_computed_whole_and_in_its_chunks(tiny_vocoder_folder, monkeypatch):
    made, original = [], Vocoder.stream

    def stream(self, mels, **settings):
        made.append([settings])
        for audio in original(self, mels, **settings):
            made[-1].append(len(audio))
            yield audio

    monkeypatch.setattr(Vocoder, "stream", stream)
    StreamingJob(ENVIRONMENT, str(tiny_vocoder_folder), "fp32", 0.2, steps=1).run()
    (settings, *lengths) = made[-1]
    assert (settings, sum(lengths), len(lengths) > 5) == ({"chunk_seconds": 0.2, "steps": 1}, 250 * 64, True)


def test_a_chunk_shorter_than_a_hop_cannot_be_measured(tiny_vocoder_folder):
    with pytest.raises(ConfigError, match="at least a hop"):
        StreamingJob(ENVIRONMENT, str(tiny_vocoder_folder), "fp32", 0.001).run()


def test_machine_job():
    machine, rates, copies = MachineJob(ENVIRONMENT, ("fp32", "bf16"), square=64).run()
    assert copies.low > 1e8
    assert (machine.threads, machine.device) == (1, "cpu")
    assert [(rate.dtype, rate.roofline) for rate in rates] == [
        (dtype, first) for dtype in ("fp32", "bf16") for first in (True, False, False)
    ]
    assert all(rate.rate.low > 0 for rate in rates)


def test_precision_is_the_ratio_of_powers():
    exact = torch.tensor([3.0, -4.0])
    assert signal_to_noise(exact, exact + torch.tensor([0.0, 0.5])) == pytest.approx(20.0)


def test_precision_job(small_base):
    row = PrecisionJob(ENVIRONMENT, BASE, 0.2).run()
    assert 20 < row.snr_db < 80
    assert row.steps == 6


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_job(dtype, tiny_vocoder_folder):
    job = TrainingJob(ENVIRONMENT, str(tiny_vocoder_folder), dtype, TrainingLimits(2, 100.0))
    row, note = job.run()
    assert (row.batch, row.n_samples, row.dtype, note) == (2, 16384, dtype, "")


def test_a_step_trains(tiny_vocoder_folder, monkeypatch):
    monkeypatch.setattr("audiodiff.benchmark.training.CROP_SAMPLES", 1024)
    made = []

    from audiodiff.training.state import TrainState

    original = TrainState.step
    monkeypatch.setattr(TrainState, "step", lambda self, crops: made.append((crops, original(self, crops))))
    step_factory(*load_network(str(tiny_vocoder_folder), "cpu"), "fp32")(3)()
    ((crops, (result,)),) = made
    assert len(crops.audio) == 3
    assert result.finite


class StepClock:
    """A clock that training steps advance by a time per crop."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        return self.now

    def maker(self, batch):
        def step():
            self.now += batch * self.seconds

        return step


@pytest.mark.parametrize(("seconds", "batch"), [(0.1, 16), (0.5, 8), (1.0, 4), (100.0, 1)])
def test_a_batch_is_as_large_as_time_allows(seconds, batch):
    clock = StepClock(seconds)
    found, reason = largest_batch(clock.maker, TrainingLimits(16, 4.5), MemoryMonitor(CPU), CPU, clock)
    assert found == batch
    assert ("a step may take 4.5 s" in reason) == (batch < 16)


def test_a_batch_is_as_large_as_memory_allows(monkeypatch):
    class Monitor:
        def memory(self):
            return Memory(before=100, peak=1100)

    monkeypatch.setattr("audiodiff.benchmark.training.available_bytes", lambda device: 10_000)
    clock = StepClock(0.0)
    found, reason = largest_batch(clock.maker, TrainingLimits(16, 1.0), Monitor(), CPU, clock)
    assert found == 4  # of 1000 each, in 6000
    assert "one crop takes" in reason


def test_crops_are_what_training_reads(tiny_model_config):
    from audiodiff.training.objective import Objective

    prepared = Objective(tiny_model_config, CPU).prepare(noise_crops(tiny_model_config, 2, 1024))
    assert prepared.clean.shape == (2, 1, 1024)
    assert prepared.mel.shape == (2, 20, 16)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffwave.model", None)
    with pytest.raises(ConfigError, match=r"pip install 'audiodiff\[bench\]'") as caught:
        build_pair(CPU)
    assert "\n" not in str(caught.value)


@pytest.fixture
def pair(small_base):
    pytest.importorskip("diffwave.model")
    return build_pair(CPU)


def test_the_same_weights_predict_the_same(pair):
    assert relative_difference(pair) < 1e-5
    with torch.no_grad():
        pair.ours.output.weight.mul_(1.01)
    assert relative_difference(pair) == pytest.approx(0.01, rel=0.3)  # its bias is what it was


@pytest.mark.parametrize("steps", [6, 4])
def test_sampling_with_the_baseline_gives_our_audio(pair, steps):
    vocoder = Vocoder(pair.ours, pair.config, "fp32")
    mel = noise_mel(vocoder, 2, 0.2)
    changes = {} if steps == 6 else {"steps": steps, "schedule": "uniform"}
    draw = partial(position_noise, [0, 0], n_samples=mel.shape[-1] * 256, device=CPU)
    baseline = baseline_synthesis(pair, mel, vocoder.noise_levels(vocoder.settings(changes)), draw, steps)
    ours = vocoder(mel, **changes)
    assert (ours - baseline[:, 0]).norm() / ours.norm() < 1e-4


def test_the_baseline_trains_as_its_project_does(pair):
    """The first step of Adam moves every weight by the learning rate, whatever the gradient (Kingma and Ba 2015)."""
    before = copy.deepcopy(pair.baseline)
    audio, mel = torch.randn(2, 1024), torch.rand(2, 80, 4)
    torch.manual_seed(0)
    loss = baseline_training_step(pair)(audio, mel)
    torch.manual_seed(0)
    step, noise = torch.randint(0, 50, [2]), torch.randn(2, 1024)
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.05, 50), 0)[step].unsqueeze(1)
    with torch.no_grad():
        predicted = before(abar.sqrt() * audio + (1 - abar).sqrt() * noise, mel, step)[:, 0]
    assert loss == pytest.approx(float((predicted - noise).abs().mean()), rel=1e-4)
    moved = (pair.baseline.skip_projection.weight.detach() - before.skip_projection.weight.detach()).abs()
    assert moved.median() == pytest.approx(2e-4, rel=0.01)


def test_synthesis_comparison(pair):
    job = SynthesisComparison(ENVIRONMENT, ("fp32", "bf16"), 2, 0.2)
    comparison = job.run()
    assert [(row.name, row.dtype) for row in comparison.entries] == list(job.keys)
    assert comparison.steps == comparison.baseline_steps_timed == 6  # so small a network is timed over all steps
    assert comparison.relative_difference < 1e-5
    assert all(row.speedup is not None for row in comparison.entries[:2])
    for key in (BASELINE_KEY, (OURS, "fp32")):
        memory = job.memory(key)
        assert memory.peak is None or memory.peak >= memory.before


def test_a_slow_baseline_is_timed_over_one_step(pair, monkeypatch):
    monkeypatch.setattr("audiodiff.benchmark.comparison.MAX_BASELINE_STEP_SECONDS", 0.0)
    assert SynthesisComparison(ENVIRONMENT, ("fp32",), 1, 0.1).run().baseline_steps_timed == 1


def test_training_comparison(pair):
    job = TrainingComparison(ENVIRONMENT, ("fp32", "bf16"), TrainingLimits(1, 100.0))
    comparison, note = job.run()
    assert (comparison.batch, comparison.n_samples, note) == (1, 16384, "")
    assert [row.name for row in comparison.entries] == ["audiodiff", "audiodiff", "diffwave"]
    memory = job.memory((OURS, "bf16"))
    assert memory.peak is None or memory.peak > 0.9 * memory.before  # what was freed before is used again


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_jobs_on_a_gpu(dtype):
    pytest.importorskip("diffwave.model")
    environment = Environment("cuda", 1, TimingOptions(2, 5.0))
    row = SynthesisJob(environment, BASE, dtype, 2, 2.0).run()
    assert row.memory.peak > row.memory.before > 0
    assert row.real_time_factor.median < 1
    machine, rates, copies = MachineJob(environment, (dtype,)).run()
    assert copies.median > 1e11
    assert machine.device == "cuda"
    assert rates[0].rate.median > 1e12
    comparison = SynthesisComparison(environment, (dtype,), 1, 2.0).run()
    assert comparison.baseline_steps_timed == 6
    assert comparison.relative_difference < 1e-2  # the baseline's convolutions are in TF32 there
    training, _ = TrainingComparison(environment, (dtype,), TrainingLimits(2, 60.0)).run()
    assert training.batch == 2
