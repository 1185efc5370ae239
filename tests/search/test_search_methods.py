"""Each method asks for levels that can be walked, begins with what it is given, and finds what there is to find."""

from itertools import islice, pairwise
from random import Random

import pytest

from audiodiff.search.schedule import METHODS, Space, fits, spaced_levels

SPACE = Space(3, -8.0, 10.0, (spaced_levels(3, 4.5, 8.0), spaced_levels(3, -8.0, 10.0)))


def walk(method, score, *, space=SPACE, trials=200, seed=0):
    """Return the levels that a method asked for, with their scores."""
    proposals, asked = METHODS[method](space, trials, Random(seed)), []
    levels = next(proposals)
    while len(asked) < trials:
        asked.append((levels, score(levels)))
        try:
            levels = proposals.send(asked[-1][1])
        except StopIteration:
            break
    return asked


def bowl(levels):
    """A score with its least value, 0, at levels that no even spacing has."""
    return sum((level - best) ** 2 for level, best in zip(levels, (-3.0, 4.0, 5.5), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_levels_rise_within_the_space_and_the_given_ones_come_first(method):
    asked = [levels for levels, _ in walk(method, bowl)]
    assert tuple(asked[:2]) == SPACE.first
    assert len(asked) > 100
    for levels in asked:
        assert fits(levels, SPACE)
        assert all(low < high for low, high in pairwise(levels))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_scores_bring_the_same_questions(method):
    assert walk(method, bowl, trials=60) == walk(method, bowl, trials=60)


@pytest.mark.parametrize("method", ["random", "coordinate"])
def test_seed_changes_the_trials(method):
    assert walk(method, bowl, seed=1) != walk(method, bowl)


def test_a_finer_grid_is_tried_where_there_are_more_trials():
    few, many = (walk("grid", bowl, trials=trials) for trials in (20, 200))
    assert len(few) <= 20 < len(many) <= 200
    assert min(score for _, score in many) < min(score for _, score in few)


def test_coordinate_search_comes_nearest_to_the_least():
    least = {method: min(score for _, score in walk(method, bowl)) for method in METHODS}
    assert least["coordinate"] < 0.05 < min(least["grid"], least["random"])


@pytest.mark.parametrize("method", METHODS)
def test_a_single_step_is_searched_too(method):
    space = Space(1, -8.0, 10.0, ((4.5,),))
    best = min(walk(method, lambda levels: abs(levels[0] - 6.0), space=space, trials=60), key=lambda item: item[1])
    assert best[1] < 0.6
    assert [levels for levels, _ in islice(walk(method, lambda levels: 0.0, space=space, trials=9), 1)] == [(4.5,)]


def test_levels_that_lie_close_are_no_hindrance():
    """What is found for few steps and stretched for many has neighbours that hardly differ."""
    space = Space(3, -8.0, 10.0, ((4.5, 4.51, 4.52),))
    assert min(score for _, score in walk("coordinate", bowl, space=space)) < 0.1
