"""Position noise is normal, depends on its position alone, and its generator is the published one."""

from itertools import combinations

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from audiodiff.diffusion import noise
from audiodiff.diffusion.noise import philox, position_noise

N = 100_000
SEEDS = [0, 1, 2, -1, -2, 2**31, 2**32, 2**32 + 1, 2**63, 2**64, 2**64 + 1, 10**40, -(2**64), -(10**40)]


def draw(seed=0, step=0, n_samples=N, **options):
    return position_noise([seed], step, n_samples=n_samples, **options)[0]


def correlation(first, second):
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0x00000000, 0x00000000), 0x00000000, (0xFF1DAE59, 0x6CD10DF2)),
        ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    # kat_vectors of https://github.com/DEShawResearch/random123, lines `philox2x32 10`
    words = philox(torch.tensor(counter[0]), torch.tensor(counter[1]), key)
    assert tuple(int(word) for word in words) == expected


def test_philox_is_a_permutation_of_its_counters():
    low, high = philox(torch.arange(N), torch.tensor(7), 42)
    assert len(torch.unique((high << 32) | low)) == N
    assert 0 <= int(low.min()) <= int(low.max()) < 2**32
    assert 0 <= int(high.min()) <= int(high.max()) < 2**32


def test_a_clip_has_the_same_noise_in_any_batch():
    together = position_noise([5, 6, 7, -8], 3, n_samples=1000)
    for clip, seed in zip(together, [5, 6, 7, -8], strict=True):
        assert torch.equal(clip, draw(seed, 3, 1000))


@pytest.mark.parametrize(("start", "n_samples"), [(0, 1), (1, 999), (400, 256), (999, 1)])
def test_a_chunk_has_the_noise_of_its_place_in_the_whole(start, n_samples):
    whole = position_noise([1, 2], 4, n_samples=1000, channels=2)
    chunk = position_noise([1, 2], 4, n_samples=n_samples, channels=2, start=start)
    assert torch.equal(chunk, whole[..., start : start + n_samples])


def test_the_initial_noise_of_the_first_channel_is_that_of_a_mono_clip():
    assert torch.equal(draw(3, 0, 500, channels=2)[:1], draw(3, 0, 500))


def test_shape_and_dtype_are_those_of_a_batch_of_audio():
    noise = position_noise([1, 2, 3], 0, n_samples=7, channels=2)
    assert noise.shape == (3, 2, 7)
    assert noise.dtype == torch.float32


def test_values_are_standard_normal():
    noise = draw(seed=1, n_samples=10 * N)[0].double()
    n = len(noise)
    assert noise.isfinite().all()
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(noise.pow(3).mean()) < 4 * (15 / n) ** 0.5
    assert abs(noise.pow(4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01


def test_neighbouring_samples_are_uncorrelated_so_the_noise_is_white():
    noise = draw()[0].double()
    for lag in (1, 2, 256):
        assert abs(correlation(noise[lag:], noise[:-lag])) < 5 / N**0.5


@pytest.mark.parametrize("seed", [0, 12345, -1])
def test_steps_and_channels_are_uncorrelated(seed):
    streams = torch.cat([draw(seed, step, channels=2) for step in range(4)]).double()
    off_diagonal = torch.corrcoef(streams) - torch.eye(len(streams), dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / N**0.5


def test_seeds_are_uncorrelated_be_they_neighbours_negative_or_longer_than_64_bits():
    noise = position_noise(SEEDS, 0, n_samples=N)[:, 0].double()
    off_diagonal = torch.corrcoef(noise) - torch.eye(len(SEEDS), dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / N**0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_gives_standard_normal_values(seed):
    assert stats.kstest(draw(seed, n_samples=20_000)[0].numpy(), "norm").pvalue > 1e-3


def test_neighbouring_seeds_steps_and_samples_never_repeat_a_value_in_the_same_place():
    pairs = combinations([draw(seed, step, 1000)[0] for seed in range(4) for step in range(4)], 2)
    assert not any((first == second).sum() > 2 for first, second in pairs)


def test_noise_ignores_and_leaves_the_global_generator():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), draw(n_samples=10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw(n_samples=10), first)


@pytest.mark.gpu
def test_every_device_draws_the_same_noise():
    on_gpu = position_noise(SEEDS, 5, n_samples=N, channels=2, start=123, device="cuda")
    assert on_gpu.device.type == "cuda"
    on_cpu = position_noise(SEEDS, 5, n_samples=N, channels=2, start=123)
    assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_philox_words_are_the_same_bits_on_every_device():
    counter = torch.arange(N)
    for here, there in zip(philox(counter, counter + 1, 9), philox(counter.cuda(), counter.cuda() + 1, 9), strict=True):
        assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize(
    ("one", "other"), [(-1, 2**32 - 1), (-5, 5), (-(2**40), 2**64 - 2**40), (6668, 62697), (0, 2**32)]
)
def test_seeds_of_other_sign_or_size_give_other_noise(one, other):
    assert not torch.equal(position_noise([one], 0, n_samples=64), position_noise([other], 0, n_samples=64))


def test_a_channel_has_the_same_noise_however_many_channels_there_are():
    stereo = position_noise([3], 5, n_samples=64, channels=2)
    torch.testing.assert_close(stereo[:, :1], position_noise([3], 5, n_samples=64), rtol=0, atol=0)
    assert not torch.equal(stereo[:, 1:], position_noise([3], 6, n_samples=64))


def test_the_kernel_draws_the_same_noise():
    """On a GPU where there is one, else in Triton's interpreter."""
    triton = pytest.importorskip("triton", minversion="3.4")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not triton.knobs.runtime.interpret:
        pytest.skip("without a GPU, kernels need TRITON_INTERPRET=1")
    for start, step in ((0, 0), (2**32 - 500, 7), (10**10, -1)):
        keys = torch.tensor([noise._fold(seed) for seed in SEEDS], device=device)
        drawn = noise.draw_by_kernel(keys, step, n_samples=3001, channels=2, start=start)
        expected = position_noise(SEEDS, step, n_samples=3001, channels=2, start=start)
        assert_close(drawn.cpu(), expected, rtol=1e-6, atol=1e-6)
