"""Rows measure what they say: models by name, whole calls, the same weights on both sides."""

import copy
import math
import sys
from functools import partial

import pytest
import torch

from audiodiff.benchmark.contest import OURS, THEIRS, SynthesisContest, TrainingContest
from audiodiff.benchmark.jobs import Conditions, MachineJob, PrecisionJob, SynthesisJob, signal_to_noise
from audiodiff.benchmark.learning import TrainingJob, TrainingLimits, affordable_batch, step_maker
from audiodiff.benchmark.memory import MemoryWatch
from audiodiff.benchmark.peer import build_pair, peer_synthesis, peer_training_step, relative_difference
from audiodiff.benchmark.subjects import BASE, load_subject, load_vocoder, noise_crops, noise_mel
from audiodiff.benchmark.timing import Effort
from audiodiff.diffusion.noise import position_noise
from audiodiff.errors import ConfigError, ModelError
from audiodiff.pipelines import Vocoder

CPU = torch.device("cpu")
CONDITIONS = Conditions("cpu", 1, Effort(2, 1.0))


def test_base_is_the_published_size():
    network, config = load_subject(BASE, "cpu")
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(2.62e6, rel=0.01)
    assert (config.network.channels, config.network.layers) == (64, 30)


def test_random_weights_predict_noise_of_unit_variance(small_base):
    network, config = load_subject(BASE, "cpu")
    x = torch.randn(1, 1, 40 * config.block_length)
    with torch.no_grad():
        predicted = network(x, torch.zeros(1), network.encode(torch.rand(1, 80, 40)))
    assert predicted.std() == pytest.approx(1, abs=0.3)


def test_an_unknown_model_and_a_generator_are_refused(tiny_generator_folder):
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        load_subject("nowhere", "cpu")
    with pytest.raises(ModelError, match="takes no mel"):
        load_vocoder(str(tiny_generator_folder), "cpu", "fp32")


@pytest.mark.parametrize("seconds", [0.01, 0.5, 25.0])
def test_mels_are_of_noise_and_as_long_as_wanted(seconds, tiny_vocoder_folder):
    vocoder = load_vocoder(str(tiny_vocoder_folder), "cpu", "fp32")
    mel = noise_mel(vocoder, 2, seconds)
    assert mel.shape == (2, 20, math.ceil(seconds * 8000 / 64))
    assert not torch.equal(mel[0], mel[1])


def test_synthesis_row(tiny_vocoder_folder):
    job = SynthesisJob(CONDITIONS, str(tiny_vocoder_folder), "fp32", 3, 0.5)
    row, other = job.run(), SynthesisJob(CONDITIONS, str(tiny_vocoder_folder), "fp32", 3, 0.5, steps=5).run()
    assert (row.batch, row.steps, other.steps) == (3, 2, 5)
    assert row.clip_seconds == pytest.approx(63 * 64 / 8000)
    assert row.seconds.repeats == 2
    assert row.real_time_factor.median == pytest.approx(row.seconds.median / (3 * row.clip_seconds))
    assert other.operations / row.operations == pytest.approx(2.5, rel=0.1)


def test_machine_row():
    machine, rates = MachineJob(CONDITIONS, ("fp32", "bf16"), square=64).run()
    assert (machine.threads, machine.device) == (1, "cpu")
    assert [(rate.dtype, rate.roofline) for rate in rates] == [
        (dtype, first) for dtype in ("fp32", "bf16") for first in (True, False, False)
    ]
    assert all(rate.rate.low > 0 for rate in rates)


def test_precision_is_the_ratio_of_powers():
    exact = torch.tensor([3.0, -4.0])
    assert signal_to_noise(exact, exact + torch.tensor([0.0, 0.5])) == pytest.approx(20.0)


def test_precision_row(small_base):
    row = PrecisionJob(CONDITIONS, BASE, 0.2).run()
    assert 20 < row.snr_db < 80
    assert row.steps == 6


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_row(dtype, tiny_vocoder_folder):
    job = TrainingJob(CONDITIONS, str(tiny_vocoder_folder), dtype, TrainingLimits(2, 100.0))
    row, note = job.run()
    assert (row.batch, row.n_samples, row.dtype, note) == (2, 16384, dtype, "")


def test_a_step_trains(tiny_vocoder_folder, monkeypatch):
    monkeypatch.setattr("audiodiff.benchmark.learning.CROP_SAMPLES", 1024)
    made = []

    from audiodiff.training.state import TrainState

    original = TrainState.step
    monkeypatch.setattr(TrainState, "step", lambda self, crops: made.append((crops, original(self, crops))))
    step_maker(*load_subject(str(tiny_vocoder_folder), "cpu"), "fp32")(3)()
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
    found, reason = affordable_batch(clock.maker, TrainingLimits(16, 4.5), MemoryWatch(CPU), CPU, clock)
    assert found == batch
    assert ("a step shall take 4.5 s" in reason) == (batch < 16)


def test_a_batch_is_as_large_as_memory_allows(monkeypatch):
    class Watch:
        def memory(self):
            from audiodiff.benchmark.report import Memory

            return Memory(before=100, peak=1100)

    monkeypatch.setattr("audiodiff.benchmark.learning.available_bytes", lambda device: 10_000)
    clock = StepClock(0.0)
    found, reason = affordable_batch(clock.maker, TrainingLimits(16, 1.0), Watch(), CPU, clock)
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
def test_the_loop_of_the_peer_makes_the_sound_of_ours(pair, steps):
    vocoder = Vocoder(pair.ours, pair.config, "fp32")
    mel = noise_mel(vocoder, 2, 0.2)
    changes = {} if steps == 6 else {"steps": steps, "schedule": "uniform"}
    draw = partial(position_noise, [0, 0], n_samples=mel.shape[-1] * 256, device=CPU)
    theirs = peer_synthesis(pair, mel, vocoder.noise_levels(vocoder.settings(changes)), draw, steps)
    ours = vocoder(mel, **changes)
    assert (ours - theirs[:, 0]).norm() / ours.norm() < 1e-4


def test_the_peer_learns_as_its_project_sets_it(pair):
    """The first step of Adam moves every weight by the learning rate, whatever the gradient (Kingma and Ba 2015)."""
    before = copy.deepcopy(pair.theirs)
    audio, mel = torch.randn(2, 1024), torch.rand(2, 80, 4)
    torch.manual_seed(0)
    loss = peer_training_step(pair)(audio, mel)
    torch.manual_seed(0)
    step, noise = torch.randint(0, 50, [2]), torch.randn(2, 1024)
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.05, 50), 0)[step].unsqueeze(1)
    with torch.no_grad():
        predicted = before(abar.sqrt() * audio + (1 - abar).sqrt() * noise, mel, step)[:, 0]
    assert loss == pytest.approx(float((predicted - noise).abs().mean()), rel=1e-4)
    moved = (pair.theirs.skip_projection.weight.detach() - before.skip_projection.weight.detach()).abs()
    assert moved.median() == pytest.approx(2e-4, rel=0.01)


def test_contest_in_synthesis(pair):
    job = SynthesisContest(CONDITIONS, ("fp32", "bf16"), 2, 0.2)
    contest = job.run()
    assert [(row.name, row.dtype) for row in contest.contestants] == list(job.keys)
    assert (contest.steps, contest.peer_steps_timed) == (6, 6)  # so small a network is timed over the whole loop
    assert contest.relative_difference < 1e-5
    assert all(row.advantage is not None for row in contest.contestants[:2])
    for key in (THEIRS, (OURS, "fp32")):
        memory = job.memory(key)
        assert memory.peak is None or memory.peak >= memory.before


def test_a_slow_peer_is_timed_over_one_step(pair, monkeypatch):
    monkeypatch.setattr("audiodiff.benchmark.contest.LONGEST_PEER_STEP", 0.0)
    assert SynthesisContest(CONDITIONS, ("fp32",), 1, 0.1).run().peer_steps_timed == 1


def test_contest_in_training(pair):
    job = TrainingContest(CONDITIONS, ("fp32", "bf16"), TrainingLimits(1, 100.0))
    contest, note = job.run()
    assert (contest.batch, contest.n_samples, note) == (1, 16384, "")
    assert [row.name for row in contest.contestants] == ["audiodiff", "audiodiff", "diffwave"]
    memory = job.memory((OURS, "bf16"))
    assert memory.peak is None or memory.peak > 0.9 * memory.before  # what was freed before is used again


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rows_on_a_gpu(dtype):
    pytest.importorskip("diffwave.model")
    conditions = Conditions("cuda", 1, Effort(2, 5.0))
    row = SynthesisJob(conditions, BASE, dtype, 2, 2.0).run()
    assert row.memory.peak > row.memory.before > 0
    assert row.real_time_factor.median < 1
    machine, rates = MachineJob(conditions, (dtype,)).run()
    assert machine.device == "cuda"
    assert rates[0].rate.median > 1e12
    contest = SynthesisContest(conditions, (dtype,), 1, 2.0).run()
    assert contest.peer_steps_timed == 6
    assert contest.relative_difference < 1e-2  # the peer's convolutions are in TF32 there
    training, _ = TrainingContest(conditions, (dtype,), TrainingLimits(2, 60.0)).run()
    assert training.batch == 2
