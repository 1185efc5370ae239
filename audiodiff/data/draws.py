"""The random numbers of many examples at once, bit for bit those that NumPy's generators draw for each.

Every example has a generator of its own, seeded with the run's seed and the number of the example. To make 512 of them
takes NumPy 10 ms; here the seeding (`numpy.random.SeedSequence`, after O'Neill's seed_seq_fe) and the generator
(Philox4x64-10, Salmon et al. 2011) run on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = 0xFFFFFFFF
_POOL = 4
"""32-bit words of the pool that `SeedSequence` mixes."""
_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_KEY_INCREMENTS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10

Words = NDArray[np.uint32]
LongWords = NDArray[np.uint64]


def example_generator(seed: int, index: int, attempt: int = 0) -> np.random.Generator:
    """Return the generator of one example.

    Args:
        seed: The seed of the stream.
        index: Number of the example.
        attempt: How many recordings have turned out unreadable before.
    """
    entropy = [seed % 2**64, index, *([attempt] if attempt else [])]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def uniform_draws(seed: int, indices: Sequence[int] | range, count: int) -> NDArray[np.float64]:
    """Return the first draws of `Generator.random` of each example.

    Args:
        seed: The seed of the stream.
        indices: Numbers of the examples.
        count: How many draws.

    Returns:
        Draws `(len(indices), count)` in [0, 1).
    """
    if max(indices) > _WORD:  # two words of entropy each, beyond 2^32 examples
        return np.stack([example_generator(seed, index).random(count) for index in indices])
    numbers = np.asarray(indices, dtype=np.uint32)
    seed %= 2**64
    seed_words = [seed & _WORD] + ([seed >> 32] if seed > _WORD else [])
    entropy = [np.full_like(numbers, word) for word in seed_words] + [numbers]
    key = _seed_words(entropy)
    blocks = [_philox(block + 1, key) for block in range(-(-count // 4))]
    bits = np.concatenate(blocks)[:count].T
    draws: NDArray[np.float64] = (bits >> np.uint64(11)) * 2.0**-53
    return draws


def _seed_words(entropy: list[Words]) -> list[LongWords]:
    """Return `SeedSequence(entropy).generate_state(2, numpy.uint64)` for arrays of at most four words of entropy."""
    constant = 0x43B0D7E5

    def hashed(value: Words) -> Words:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * 0x931E8875 & _WORD
        value = value * np.uint32(constant)
        value ^= value >> np.uint32(16)
        return value

    def mixed(left: Words, right: Words) -> Words:
        result: Words = left * np.uint32(0xCA01F9DD) - right * np.uint32(0x4973F715)
        result ^= result >> np.uint32(16)
        return result

    zero = np.zeros_like(entropy[0])
    pool = [hashed(entropy[i] if i < len(entropy) else zero) for i in range(_POOL)]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    constant, words = 0x8B51F9DD, []
    for word in pool:
        word = word ^ np.uint32(constant)
        constant = constant * 0x58F38DED & _WORD
        word = word * np.uint32(constant)
        words.append((word ^ (word >> np.uint32(16))).astype(np.uint64))
    return [words[0] | words[1] << np.uint64(32), words[2] | words[3] << np.uint64(32)]


def _philox(counter: int, key: list[LongWords]) -> LongWords:
    """Encrypt a 256-bit counter under many keys; returns its four words `(4, keys)`."""
    zero = np.zeros_like(key[0])
    words = [zero + np.uint64(counter), zero, zero, zero]
    keys = list(key)
    for _ in range(_ROUNDS):
        high0, low0 = _product(_MULTIPLIERS[0], words[0])
        high1, low1 = _product(_MULTIPLIERS[1], words[2])
        words = [high1 ^ words[1] ^ keys[0], low1, high0 ^ words[3] ^ keys[1], low0]
        keys = [word + np.uint64(increment) for word, increment in zip(keys, _KEY_INCREMENTS, strict=True)]
    return np.stack(words)


def _product(left: np.uint64, right: LongWords) -> tuple[LongWords, LongWords]:
    """Return the high and the low 64 bits of a product."""
    half, mask = np.uint64(32), np.uint64(_WORD)
    left_high, left_low = left >> half, left & mask
    right_high, right_low = right >> half, right & mask
    middle = left_high * right_low + (left_low * right_low >> half)
    carried = (middle & mask) + left_low * right_high
    return left_high * right_high + (middle >> half) + (carried >> half), right * left
