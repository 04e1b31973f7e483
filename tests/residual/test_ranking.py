import numpy as np
import pytest

from emscope.residual.ranking import draw_mixtures, precision_at_recalls
from emscope.statistics.separation import grouped_auroc


def test_nothing_to_compare_is_nan():
    found = grouped_auroc(np.arange(4.0), np.ones(4, bool), list("aabb"))
    assert np.isnan(found.value)
    assert np.isnan(grouped_auroc(np.arange(4.0), np.array([1, 1, 0, 0]), list("aabb"), within=True).value)


def naive_precision(wanted, others, recall):
    for cut in sorted(wanted, reverse=True):
        found = sum(value >= cut for value in wanted)
        if found >= recall * len(wanted) - 1e-9:
            return found / (found + sum(value >= cut for value in others))
    raise AssertionError


@pytest.mark.parametrize("recall", [0.01, 0.1, 0.5, 0.999, 1.0])
def test_precision_equals_counting_with_ties(recall):
    chooser = np.random.default_rng(3)
    for _ in range(30):
        wanted, others = chooser.integers(0, 12, chooser.integers(1, 9)), chooser.integers(0, 9, 40)
        found = precision_at_recalls(wanted.astype(float), others.astype(float), [recall])
        assert found[0] == pytest.approx(naive_precision(wanted, others, recall))


def test_mixtures_of_a_perfect_and_of_a_useless_score():
    chooser = np.random.default_rng(4)
    good = chooser.standard_normal((2, 200))
    bad = np.stack([good[0] + 100, chooser.standard_normal(200)])
    topics = [f"t{number // 5}" for number in range(200)]
    found = draw_mixtures(bad, good, topics, 0.1, (0.5, 1.0), draws=100)
    assert found.plain.shape == found.resampled.shape == (100, 2, 2)
    assert (found.plain[:, 0] == 1).all()
    assert (found.resampled[:, 0] == 1).all()
    assert found.plain[:, 1].mean(axis=0) == pytest.approx(0.1, abs=0.05)  # chance is the share
    # the same draws of a constant score take every row: precision is exactly the share
    flat = draw_mixtures(np.zeros((1, 200)), np.zeros((1, 200)), topics, 0.05, (0.5,), draws=20)
    assert flat.plain == pytest.approx(0.05)
    assert flat.resampled == pytest.approx(0.05)


def test_a_mixture_has_at_least_one_bad_row_and_repeats_with_its_seed():
    bad, good = np.full((1, 10), 1.0), np.zeros((1, 10))
    one = draw_mixtures(bad, good, ["t"] * 10, 0.001, (0.5,), draws=3)
    assert (one.plain == 1).all()
    scores = np.random.default_rng(5).standard_normal((2, 1, 30))
    again = [draw_mixtures(scores[0], scores[1], ["a", "b", "c"] * 10, 0.2, (0.5,), draws=9, seed=7) for _ in "12"]
    assert (again[0].resampled == again[1].resampled).all()
