"""The Triton kernels compute `DilatedStack`: on a GPU where there is one, else in Triton's interpreter on the CPU."""

import numpy as np
import pytest
import torch

from audiodiff.engine.fused import FusedTransform, fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="kernels need Triton")
if DEVICE == "cpu":
    oldest = "3.9" if np.lib.NumpyVersion(np.__version__) >= "2.4.0" else "3.4"
    pytest.importorskip("triton", minversion=oldest, reason="older interpreters know neither NumPy 2.4 nor `knobs`")
    if not triton.knobs.runtime.interpret:
        pytest.skip("without a GPU, kernels need TRITON_INTERPRET=1", allow_module_level=True)

HOP = 16
FLOAT32, FLOAT16 = (torch.float32, 1e-5), (torch.float16, 2e-3)
CASES = {
    "no condition, a length between tiles": ({"n_mels": 0, "patch": 1}, 50),
    "channels that are no power of two": ({"n_mels": 0, "patch": 1, "channels": 24}, 50),
    "dilations wider than the signal": ({"n_mels": 0, "patch": 1, "layers": 6, "dilation_cycle": 6}, 20),
    "few frames in a tile": ({"patch": 1}, 5 * HOP),
    "as many frames as positions": ({"patch": HOP}, 3 * HOP * HOP),
    "features in two parts": ({"n_mels": 24, "upsampling": "transposed", "upsampling_factors": (4, 4)}, 5 * HOP),
    "features of each layer": ({"upsampling": "transposed-per-layer", "upsampling_factors": (4, 4)}, 3 * HOP),
}


def conditions(network, n_samples):
    n_mels = network.normalise_mel.mean.numel() if network.normalise_mel else 0
    return torch.randn(2, n_mels, n_samples // HOP, device=DEVICE) if n_mels else None


@pytest.mark.parametrize(("dtype", "tolerance"), [FLOAT32, FLOAT16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_fused_layers_compute_the_network(case, dtype, tolerance, make_fusible, relative_error):
    options, n_samples = CASES[case]
    plain = make_fusible(**options).to(DEVICE)
    x, log_snr = torch.randn(2, 1, n_samples, device=DEVICE), torch.tensor([-2.0, 3.0], device=DEVICE)
    mel, kernels = conditions(plain, n_samples), fused(plain, dtype)
    with torch.no_grad():
        expected = plain(x, log_snr, None if mel is None else plain.encode(mel))
        result = kernels(x, log_snr, None if mel is None else kernels.encode(mel))
    assert relative_error(result, expected) < tolerance


@pytest.mark.parametrize("options", [{"patch": 1}, {"upsampling": "transposed", "upsampling_factors": (4, 4)}])
def test_what_lies_behind_the_valid_positions_is_zero_padding(options, make_fusible, relative_error):
    plain = make_fusible(**options).to(DEVICE)
    layers = FusedTransform(plain, torch.float32)
    features = torch.randn(2, 5 * HOP, 1, device=DEVICE)
    mel, n = torch.randn(2, 5, 5, device=DEVICE), 3 * HOP
    with torch.no_grad():
        embedding = plain.embed_level(torch.tensor([-2.0, 3.0], device=DEVICE), None)
        condition = plain.stack.conditioner.encode(mel.mT)
        cut = condition[:, : condition.shape[1] * 3 // 5]
        expected = plain._transform(features[:, :n], embedding, cut)
        features[:, n:] = float("nan")
        layers.stack.n_valid = torch.tensor([n], dtype=torch.int32, device=DEVICE)
        result = layers(features, embedding, layers.arrange(condition))
    assert relative_error(result[:, :n], expected) < 1e-5


BASE = {"channels": 64, "layers": 30, "dilation_cycle": 10, "n_mels": 80, "hop": 256}
WIDE = BASE | {"channels": 128, "patch": 8}


UPSAMPLED = BASE | {"upsampling": "transposed"}
ON_GPU = {
    "base bfloat16": (BASE, torch.bfloat16, False, 2e-2),
    "wide bfloat16": (WIDE, torch.bfloat16, False, 2e-2),
    "upsampled bfloat16": (UPSAMPLED, torch.bfloat16, False, 2e-2),
    "upsampled float16": (UPSAMPLED, torch.float16, False, 2e-3),
    "upsampled float32": (UPSAMPLED, torch.float32, False, 1e-5),
    "wide float32": (WIDE, torch.float32, False, 1e-5),
    "base tf32": (BASE, torch.float32, True, 2e-3),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", ON_GPU)
def test_a_whole_network_on_the_gpu_is_that_of_the_cpu(case, make_fusible, relative_error, monkeypatch):
    options, dtype, tf32, tolerance = ON_GPU[case]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the upsampler's convolutions are not ours
    plain = make_fusible(**options)
    x, log_snr, mel = torch.randn(3, 1, 13 * 256), torch.tensor([-2.0, 3.0, 0.0]), torch.randn(3, 80, 13)
    with torch.no_grad():
        expected = plain.double()(x.double(), log_snr.double(), plain.encode(mel.double()))
        kernels = fused(plain.float().cuda(), dtype, tf32=tf32)
        result = kernels(x.cuda(), log_snr.cuda(), kernels.encode(mel.cuda()))
    assert result.isfinite().all()
    assert relative_error(result, expected) < tolerance


@pytest.mark.gpu
def test_a_signal_of_more_values_than_32_bits_count(make_fusible, relative_error):
    plain = make_fusible(channels=64, layers=2, n_mels=0).cuda()
    kernels, n = fused(plain), (1 << 25) + 1000  # 64 channels: past 2^31 values
    x, log_snr = torch.randn(1, 1, n, device="cuda"), torch.zeros(1, device="cuda")
    with torch.no_grad():
        end = kernels(x, log_snr)[..., -5000:]
        expected = plain(x[..., -6000:], log_snr)[..., -5000:]
    assert relative_error(end, expected) < 1e-2
