"""Exported graphs compute what the library does, and what makes audio without torch is a short file beside them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from audiodiff import Generator, Vocoder, load_audio
from audiodiff.audio import phase_gradient
from audiodiff.audio.transforms import FramedSTFT
from audiodiff.diffusion.noise import position_noise
from audiodiff.errors import ConfigError
from audiodiff.interop.export import export_graphs, run_onnx
from audiodiff.interop.export.graphs import MatrixSTFT, PipelineGraph, Spectrum
from audiodiff.networks.layers import SelfAttention


@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 256), (768, 256), (256, 64)])
def test_fourier_bases_are_the_fft(n_fft, hop_length):
    plain, matrix = FramedSTFT(n_fft, hop_length), MatrixSTFT(n_fft, hop_length)
    signal = torch.randn(2, 12 * hop_length)
    expected, spectrum = plain(signal), matrix(signal)
    assert_close(torch.complex(*spectrum), expected, rtol=0, atol=1e-5)
    assert_close(matrix.inverse(Spectrum(expected.real, expected.imag)), signal, rtol=0, atol=1e-5)


def test_exporters_get_the_same_running_maximum(monkeypatch):
    values = torch.randint(-1, 513, (2, 3, 513))
    expected = phase_gradient._running_maximum(values)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(phase_gradient._running_maximum(values), expected)


def test_attention_is_exported_without_contexts():
    attention, features, embedding = SelfAttention(16, 8, 4), torch.randn(2, 8, 16), torch.randn(2, 4)
    program = torch.export.export(attention, (features, embedding), strict=False)
    assert not list(program.graph_module.children())  # a context would be a module of its own, and quadratically slow


def test_a_reverse_process_of_many_network_calls_is_refused(tmp_path):
    generator = Generator.from_pretrained("words-16k", device="cpu", dtype="fp32")
    with pytest.raises(ConfigError, match=r"calls the network 50 times; a graph holds at most 8 calls.*steps=4"):
        list(export_graphs(generator, tmp_path / "graphs", "torch", "words-16k"))
    assert not (tmp_path / "graphs").exists()


def test_a_vocoder_of_converted_mels_is_refused(tmp_path):
    vocoder = Vocoder.from_pretrained("speech-22k-tiny", device="cpu", dtype="fp32")
    with pytest.raises(ConfigError, match=r"takes mels of 'hifigan-22k'.*converts none of 'matcha'"):
        list(export_graphs(vocoder.with_mel_convention("matcha"), tmp_path / "graphs", "torch", "tiny"))


def test_noise_of_the_runner_is_ours():
    for number in (-1, 0, 3):
        expected = position_noise([7], number, n_samples=5000)[0, 0]
        assert_close(torch.from_numpy(run_onnx.draw(7, number, 5000)).float(), expected, rtol=0, atol=1e-5)


ABOUT = {"mel": {"n_mels": 80}, "frames_beyond_hops": 0, "max_frames": 16384}


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (np.zeros((20, 80)), r"float64 \(20, 80\); expected \(80, frames\) without NaN. Save mel.T."),
        (np.zeros((1, 80, 20)), r"\(1, 80, 20\); expected \(80, frames\).* One clip, in the convention"),
        (np.full((80, 2), np.nan), "without NaN"),
        (np.zeros((60, 20)), r"float64 \(60, 20\); expected \(80, frames\)"),
        (np.zeros((80, 20), complex), "complex128"),
        (np.zeros((80, 0)), "has 0 frames; this model takes 1 to 16384"),
        (np.zeros((80, 16385)), "has 16385 frames"),
    ],
)
def test_the_runner_says_what_is_wrong_with_a_mel(tmp_path, mel, message):
    np.save(tmp_path / "mel.npy", mel)
    with pytest.raises(SystemExit, match=message):
        run_onnx.read(str(tmp_path / "mel.npy"), ABOUT)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64"])
def test_the_runner_takes_mels_of_any_precision(tmp_path, dtype):
    np.save(tmp_path / "mel.npy", np.ones((80, 3), dtype))
    inputs, n_hops = run_onnx.read(str(tmp_path / "mel.npy"), ABOUT)
    assert (inputs["mel"].shape, inputs["mel"].dtype, n_hops) == ((1, 80, 3), np.float32, 3)


def test_the_runner_takes_seeds_of_32_bits(tmp_path):
    with pytest.raises(SystemExit, match="--seed -1: expected 0 to 4294967295"):
        run_onnx.synthesise("pipeline.onnx", "mel.npy", str(tmp_path / "out.wav"), -1)


@pytest.mark.parametrize("name", ["speech-22k-tiny", "speech-22k-stream"])
@pytest.mark.parametrize("quiet_samples", [0, 20000])  # as if the speech began like a drum
def test_the_graph_is_the_pipeline(name, quiet_samples, clip):
    vocoder = Vocoder.from_pretrained(name, device="cpu", dtype="fp32")
    graph = PipelineGraph(vocoder, vocoder.config.synthesis)
    audio = clip(vocoder.sample_rate)
    audio[:, :quiet_samples] = 0
    mel = vocoder.mel(audio)
    n_samples = mel.shape[-1] * vocoder.mel_config.hop_length
    noise = torch.stack([position_noise([3], draw, n_samples=n_samples)[:, 0] for draw in graph.draws])
    with torch.no_grad():
        assert_close(graph(noise, mel), vocoder(mel, seed=3).clone(), rtol=0, atol=1e-4)


@pytest.fixture
def clip():
    def load(sample_rate):
        path = "audiodiff/assets/clips/sense-and-sensibility-0870.flac"
        return load_audio(path, sample_rate=sample_rate).reshape(1, -1)[:, : 2 * sample_rate]

    return load


@pytest.mark.slow
def test_the_shipped_runner_makes_what_the_library_makes(tmp_path, clip):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    vocoder = Vocoder.from_pretrained("speech-22k-tiny", device="cpu", dtype="fp32")
    written = {
        path.name: difference for path, difference in export_graphs(vocoder, tmp_path, "onnx", "tiny", int8=True)
    }
    assert set(written) == {"pipeline.onnx", "pipeline-int8.onnx", "step.onnx"}
    assert 1e-4 < written.pop("pipeline-int8.onnx") < 0.05
    assert all(difference < 1e-4 for difference in written.values())
    operators = [node.op_type for node in onnx.load(tmp_path / "pipeline-int8.onnx").graph.node]
    assert operators.count("MatMulInteger") == 16  # those of the network
    mel = vocoder.mel(clip(22050))[0]
    np.save(tmp_path / "mel.npy", mel.numpy())
    command = [sys.executable, tmp_path / "run_onnx.py", tmp_path / "pipeline.onnx", tmp_path / "mel.npy"]
    subprocess.run([*command, tmp_path / "out.wav", "--seed", "5"], check=True)
    audio = load_audio(tmp_path / "out.wav", sample_rate=22050).flatten()
    assert_close(audio, vocoder(mel, seed=5).clamp(-1, 1), rtol=0, atol=1e-4)
    command[2] = tmp_path / "pipeline-int8.onnx"
    subprocess.run([*command, tmp_path / "int8.wav", "--seed", "5"], check=True)
    quantised = load_audio(tmp_path / "int8.wav", sample_rate=22050).flatten()
    assert 0.0 < (quantised - audio).square().mean().sqrt() < 0.05 * audio.square().mean().sqrt()
    session = onnxruntime.InferenceSession(tmp_path / "pipeline.onnx")
    draws = json.loads(session.get_modelmeta().custom_metadata_map["audiodiff"])["draws"]
    for n_frames in (1, 2, 37):
        mel = torch.stack([torch.randn(80, n_frames), torch.zeros(80, n_frames)]) - 5
        noise = torch.stack([position_noise([0, 1], n, n_samples=256 * n_frames)[:, 0] for n in draws])
        (audio,) = session.run(None, {"mel": mel.numpy(), "noise": noise.numpy()})
        assert_close(torch.from_numpy(audio), vocoder(mel, seed=[0, 1]).clone(), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_package_of_torch_export_takes_any_length(tmp_path):
    vocoder = Vocoder.from_pretrained("speech-22k-tiny", device="cpu", dtype="fp32")
    list(export_graphs(vocoder, tmp_path, "torch", "tiny"))
    about = {"audiodiff.json": ""}
    module = torch.export.load(tmp_path / "pipeline.pt2", extra_files=about).module()
    draws = json.loads(about["audiodiff.json"])["draws"]
    for n_frames in (7, 200):
        mel = torch.randn(3, 80, n_frames) - 5
        noise = torch.stack([position_noise([0, 0, 0], n, n_samples=256 * n_frames)[:, 0] for n in draws])
        assert_close(module(noise=noise, mel=mel), vocoder(mel, seed=0).clone(), rtol=0, atol=1e-4)
