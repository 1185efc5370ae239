"""Draws of many examples at once are, bit for bit, those of the generator of each."""

import numpy as np
import pytest

from audiodiff.data.draws import example_generator, uniform_draws


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**63 + 12345, -3])
@pytest.mark.parametrize("indices", [range(9), [5, 2**31, 2**32 - 1], range(2**32 - 2, 2**32 + 2)])
@pytest.mark.parametrize("count", [1, 4, 6, 9])
def test_draws_are_those_of_each_generator(seed, indices, count):
    expected = np.stack([example_generator(seed, index).random(count) for index in indices])
    assert np.array_equal(uniform_draws(seed, indices, count), expected)


def test_a_further_attempt_draws_anew():
    assert example_generator(0, 5).random() != example_generator(0, 5, 1).random()
