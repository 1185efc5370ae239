"""What tests of the benchmark utilisation: small networks of every kind, and a report with every part."""

from __future__ import annotations

import pytest
import torch

from audiodiff.benchmark.machine import _SIDE_BESIDE_ROWS
from audiodiff.benchmark.results import (
    Comparison,
    Entry,
    Machine,
    MatmulResult,
    Measurement,
    Memory,
    PrecisionResult,
    Report,
    StreamingResult,
    SynthesisResult,
    TrainingResult,
)
from audiodiff.config import ModelConfig, parse_config


def published_like(**network):
    """Describe a network of the published layout in a small size."""
    from audiodiff.interop import published_base_config

    values = published_base_config().model_dump()
    values["network"] |= {"channels": 8, "layers": 3, "dilation_cycle": 2} | network
    return parse_config(ModelConfig, values, "a test")


@pytest.fixture(scope="session")
def small_configs(tiny_model_config):
    """Give configurations of all kinds of networks, by name."""
    patches = {"kind": "diffwave", "channels": 8, "layers": 2, "patch": 4}
    unet = {"kind": "unet", "channels": 8, "factors": [4, 2], "multipliers": [1, 2, 4], "blocks": [1, 2, 1]}
    hop = tiny_model_config.hop_length
    unet |= {"patch": hop // 16, "attention": 1}
    return {
        "stft": tiny_model_config,
        "a U-Net": parse_config(ModelConfig, tiny_model_config.model_dump() | {"network": unet}, "a test"),
        "patches": parse_config(ModelConfig, tiny_model_config.model_dump() | {"network": patches}, "a test"),
        "radial": parse_config(
            ModelConfig, tiny_model_config.model_dump() | {"network": patches | {"activation": "rbf"}}, "a test"
        ),
        "published": published_like(),
        "an upsampler per layer": published_like(upsampling="transposed-per-layer"),
        "no mel": ModelConfig(sample_rate=8000, network={"channels": 6, "layers": 3, "patch": 2}),
    }


@pytest.fixture(autouse=True)
def small_roofline(monkeypatch):
    """Make the products between repeats small: in bf16 large ones take seconds where the hardware has none."""
    monkeypatch.setitem(_SIDE_BESIDE_ROWS, "cpu", 64)


@pytest.fixture
def small_base(monkeypatch):
    """Make DiffWave BASE a small network, for rows that run in this process."""
    config = published_like()
    for module in ("inputs", "baseline", "machine"):
        monkeypatch.setattr(f"audiodiff.benchmark.{module}.published_base_config", lambda: config)
    threads = torch.get_num_threads()
    yield config
    torch.set_num_threads(threads)


@pytest.fixture
def report():
    """Give a report with every part, of round numbers."""
    once, thrice = Measurement.from_values([2.0]), Measurement.from_values([1.0, 2.0, 4.0])
    memory = Memory(before=400_000_000, peak=1_500_000_000)
    ours = Entry(name="audiodiff", dtype="bf16", seconds=thrice, speedup=Measurement.from_values([8.0]), memory=memory)
    baseline = Entry(name="diffwave", dtype="fp32", seconds=Measurement.from_values([16.0]))
    comparison = dict(baseline="diffwave", batch=2, n_samples=44100, sample_rate=22050, relative_difference=1e-6)
    machine = Machine(
        device="cpu", name="a CPU", cpu="a CPU", cores=2, threads=2, bf16=True, system="Linux", versions={"torch": "2"}
    )
    sizes = {"m": 8, "k": 8, "n": 8}
    return Report(
        command="audiodiff bench",
        date="2026-01-01T00:00:00+00:00",
        machine=machine,
        matmuls=(
            MatmulResult(name="square", dtype="bf16", rate=Measurement.from_values([4e9]), roofline=True, **sizes),
            MatmulResult(name="other", dtype="bf16", rate=Measurement.from_values([1e9]), roofline=False, **sizes),
        ),
        synthesis=(
            SynthesisResult(
                model="m", dtype="bf16", batch=2, clip_seconds=4, steps=6, seconds=thrice, flops=4e9, memory=memory
            ),
            SynthesisResult(
                model="m", dtype="fp32", batch=1, clip_seconds=4, steps=6, seconds=once, flops=2e9, memory=Memory()
            ),
        ),
        streaming=(
            StreamingResult(
                model="m",
                dtype="fp32",
                threads=1,
                steps=2,
                chunk_seconds=0.02,
                latency_seconds=0.1504,
                clip_seconds=4,
                seconds=thrice,
                offline_seconds=once.scaled(0.5),
                cost_ratio=thrice,
            ),
        ),
        precision=(PrecisionResult(model="m", steps=6, clip_seconds=4, snr_db=34.56),),
        training=(TrainingResult(model="m", dtype="bf16", batch=3, n_samples=1000, seconds=thrice, memory=memory),),
        comparisons=(
            Comparison(
                task="synthesis", steps=6, baseline_steps_timed=1, flops=2e9, entries=(ours, baseline), **comparison
            ),
            Comparison(
                task="training", steps=1, baseline_steps_timed=1, flops=0, entries=(ours, baseline), **comparison
            ),
        ),
        notes=("a | b was left out",),
    )
