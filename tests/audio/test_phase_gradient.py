import heapq
import math

import numpy as np
import pytest
import torch

from audiodiff.audio.phase_gradient import HANN_GAMMA, TOLERANCE, PhaseGradient, double_phases

HOP, N_FFT = 16, 64
N_BINS = N_FFT // 2 + 1


def spectrogram(n_frames=40, seed=0):
    """A chirp in noise, with a quiet passage: magnitudes and random phases `(n_frames, n_bins)`."""
    generator = np.random.default_rng(seed)
    time = np.arange(HOP * (n_frames - 1) + N_FFT)
    audio = np.sin(2 * np.pi * (0.05 + 1e-4 * time) * time) + 0.01 * generator.standard_normal(len(time))
    audio[200:330] *= 1e-3
    frames = np.lib.stride_tricks.sliding_window_view(audio, N_FFT)[::HOP] * np.hanning(N_FFT + 1)[:-1]
    return np.abs(np.fft.rfft(frames)), generator.uniform(0, 2 * np.pi, (n_frames, N_BINS))


def heap_integration(magnitude, random):
    """The method as published: one frame after the other, bin by bin from the loudest, through a heap."""
    s = np.log(np.maximum(magnitude, 1e-12))
    n_frames, n_bins = s.shape
    gamma = HANN_GAMMA * N_FFT**2
    in_time, in_frequency = np.zeros_like(s), np.zeros_like(s)
    in_time[1:-1] = (s[2:] - s[:-2]) / 2
    in_frequency[:, 1:-1] = (s[:, 2:] - s[:, :-2]) / 2
    time_step = HOP * N_FFT / gamma * in_frequency + 2 * np.pi * HOP * np.arange(n_bins) / N_FFT
    bin_step = -gamma / (HOP * N_FFT) * in_time
    phase = random.copy()
    for n in range(n_frames):
        before = s[n - 1] if n else np.full(n_bins, -np.inf)
        threshold = max(s[n].max(), before.max()) + math.log(TOLERANCE)
        todo = set(np.flatnonzero(s[n] >= threshold))
        heap = [(-before[m], m, False) for m in range(n_bins) if before[m] >= threshold]
        heapq.heapify(heap)
        while todo:
            if not heap:
                loudest = max(todo, key=lambda m: s[n, m])
                phase[n, loudest] = 0
                todo.remove(loudest)
                heapq.heappush(heap, (-s[n, loudest], loudest, True))
            _, m, here = heapq.heappop(heap)
            if not here:
                if m in todo:
                    phase[n, m] = phase[n - 1, m] + (time_step[n - 1, m] + time_step[n, m]) / 2
                    todo.remove(m)
                    heapq.heappush(heap, (-s[n, m], m, True))
                continue
            for k in {m - 1, m + 1} & todo:
                phase[n, k] = phase[n, m] + (k - m) * (bin_step[n, m] + bin_step[n, k]) / 2
                todo.remove(k)
                heapq.heappush(heap, (-s[n, k], k, True))
    return phase + np.pi * np.arange(n_bins)


def assert_same_phases(phases, expected, tolerance):
    difference = np.angle(np.exp(1j * (np.asarray(phases) - np.asarray(expected))))
    assert np.abs(difference).max() < tolerance


def integrate(magnitude, random, lengths=None, way=None):
    integration, phases, start = PhaseGradient(HOP, way), [], 0
    for length in lengths or [len(magnitude)]:
        stop = start + length
        parts = (torch.from_numpy(part[start:stop]).unsqueeze(0) for part in (magnitude, random))
        phases.append(integration.push(*parts, last=stop >= len(magnitude))[0])
        start = stop
    return torch.cat(phases, 1)[0].numpy()


@pytest.mark.parametrize("way", [None, double_phases])
@pytest.mark.parametrize("seed", range(4))
def test_phases_are_those_of_the_heap(seed, way):
    magnitude, random = spectrogram(seed=seed)
    assert_same_phases(integrate(magnitude, random, way=way), heap_integration(magnitude, random), 1e-9)


@pytest.mark.parametrize("way", [None, double_phases])
@pytest.mark.parametrize("lengths", [[1] * 40, [7, 1, 2, 30], [39, 1]], ids=str)
def test_pieces_join_to_the_phases_of_the_whole(lengths, way):
    magnitude, random = spectrogram()
    assert_same_phases(integrate(magnitude, random, lengths, way), integrate(magnitude, random), 1e-9)


def test_a_batch_is_made_of_single_spectrograms():
    parts = [spectrogram(seed=seed) for seed in range(3)]
    magnitude, random = (torch.from_numpy(np.stack(kind)) for kind in zip(*parts, strict=True))
    together, _ = PhaseGradient(HOP).push(magnitude, random, last=True)
    for phases, part in zip(together, parts, strict=True):
        assert_same_phases(phases, integrate(*part), 1e-9)


def test_silence_has_the_random_phases_of_nothing_else():
    phases = integrate(np.zeros((5, N_BINS)), np.zeros((5, N_BINS)))
    assert np.isfinite(phases).all()


def test_a_tone_comes_back():
    """The phases of a steady tone are right up to a constant, so overlapping frames add up to a tone again."""
    time = np.arange(HOP * 59 + N_FFT)
    audio, window = np.sin(2 * np.pi * 0.11 * time), np.hanning(N_FFT + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(audio, N_FFT)[::HOP] * window
    magnitude = np.abs(np.fft.rfft(frames))
    random = np.random.default_rng(0).uniform(0, 2 * np.pi, magnitude.shape)
    made = np.fft.irfft(magnitude * np.exp(1j * integrate(magnitude, random))) * window
    joined, weight = np.zeros(len(time)), np.zeros(len(time))
    for n, frame in enumerate(made):
        joined[n * HOP : n * HOP + N_FFT] += frame
        weight[n * HOP : n * HOP + N_FFT] += window**2
    middle = slice(N_FFT, -N_FFT)
    joined = (joined / np.maximum(weight, 1e-9))[middle]
    spectrum = np.abs(np.fft.rfft(joined * np.hanning(len(joined))))
    peak = int(spectrum.argmax())
    assert peak / len(joined) == pytest.approx(0.11, abs=1 / len(joined))
    assert spectrum[peak - 3 : peak + 4].dot(spectrum[peak - 3 : peak + 4]) > 0.98 * spectrum.dot(spectrum)
