"""Comparison with Vocos: its network in the published size, on our mel, in the same precision."""

import pytest
import torch

from audiodiff.audio.resample import import_torchaudio
from audiodiff.benchmark.jobs import Environment
from audiodiff.benchmark.timing import TimingOptions
from audiodiff.benchmark.vocos import VocosComparison, build_vocos, vocos_flops, vocos_task
from audiodiff.interop import published_base_config

import_torchaudio()  # which vocos imports, and which may need help
pytest.importorskip("vocos.models")
MEL = published_base_config().mel


def test_the_network_has_the_published_size():
    network = build_vocos(MEL.model_copy(update={"n_mels": 100}))
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(13.5e6, rel=0.01)


def test_it_makes_audio_of_a_mel_in_both_precisions():
    network, mel = build_vocos(MEL), torch.randn(2, 80, 17)
    exact, rounded = (vocos_task(network, mel, dtype)() for dtype in ("fp32", "bf16"))
    assert exact.shape == (2, 16 * 256)
    assert exact.dtype == rounded.dtype == torch.float32
    assert 1e-6 < (exact - rounded).norm() / exact.norm() < 0.05
    assert torch.equal(exact, vocos_task(build_vocos(MEL), mel, "fp32")())  # its weights are always the same


def test_operations_are_counted():
    """Per frame: the first convolution, 8 blocks of a depthwise convolution and two products, and the head."""
    per_frame = 7 * 80 * 512 + 8 * (7 * 512 + 2 * 512 * 1536) + 512 * 1026
    assert vocos_flops(build_vocos(MEL), torch.randn(1, 80, 10)) == 2 * 10 * per_frame


@pytest.mark.parametrize("dtypes", [("fp32",), ("fp32", "bf16")])
def test_a_comparison_is_at_equal_precision(dtypes, tiny_vocoder_folder, monkeypatch):
    built = []
    monkeypatch.setattr("audiodiff.benchmark.vocos.build_vocos", lambda mel: built.append(mel) or build_vocos(mel))
    job = VocosComparison(Environment("cpu", 1, TimingOptions(2, 1.0)), str(tiny_vocoder_folder), dtypes, 2, 0.2)
    threads = torch.get_num_threads()
    try:
        comparison = job.run()
        assert len(built) == 1
        assert job.memory(("vocos", "fp32")).peak is None or job.memory(("vocos", "fp32")).peak > 0
    finally:
        torch.set_num_threads(threads)
    assert [(row.name, row.dtype) for row in comparison.entries] == list(job.keys)
    assert set(comparison.rooflines) == set(dtypes)
    for ours, vocos in zip(comparison.entries[::2], comparison.entries[1::2], strict=True):
        assert ours.speedup.median == pytest.approx(vocos.seconds.median / ours.seconds.median)
        assert (vocos.speedup, ours.flops) == (None, None)
        assert vocos.flops > comparison.flops > 0
