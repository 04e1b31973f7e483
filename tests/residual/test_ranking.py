import numpy as np
import pytest

from emscope.residual.detection import auroc
from emscope.residual.ranking import auroc_gain, draw_mixtures, grouped_auroc, precision_at_recalls


def sample(seed=0, n=40, per=4, question=0.0, effect=0.0):
    chooser = np.random.default_rng(seed)
    groups = [f"q{number}" for number in range(n) for _ in range(per)]
    bad = chooser.normal(0, 1, n)  # questions that invite wanted rows
    wanted = chooser.random(n * per) < 1 / (1 + np.exp(-2 * np.repeat(bad, per)))
    scores = chooser.standard_normal(n * per) + question * np.repeat(bad, per) + effect * wanted
    return scores, wanted, groups


def test_it_is_the_area_under_the_curve_and_ignores_rows_without_a_score():
    scores, wanted, groups = sample(effect=1)
    scores = np.round(scores, 1)  # with ties
    found = grouped_auroc(scores, wanted, groups)
    assert found.value == pytest.approx(auroc(scores[wanted], scores[~wanted]))
    assert found.low < found.value < found.high
    holes = scores.copy()
    holes[::7] = np.nan
    kept = np.isfinite(holes)
    assert grouped_auroc(holes, wanted, groups).value == pytest.approx(
        auroc(holes[kept & wanted], holes[kept & ~wanted])
    )


def test_on_null_data_the_interval_covers_chance():
    covered = [(found := grouped_auroc(*sample(seed))).low <= 0.5 <= found.high for seed in range(20)]
    assert sum(covered) >= 17


def test_what_the_question_tells_does_not_count_within_questions():
    scores, wanted, groups = sample(n=150, question=3.0)
    assert grouped_auroc(scores, wanted, groups).value > 0.7
    inside = grouped_auroc(scores, wanted, groups, within=True)
    assert inside.low < 0.5 < inside.high
    both = sample(n=150, question=3.0, effect=2.0)
    assert grouped_auroc(*both, within=True).low > 0.8


def test_questions_not_answers_are_resampled():
    scores, wanted, groups = sample(n=30, question=2.0)
    copies = grouped_auroc(np.tile(scores, 3), np.tile(wanted, 3), groups * 3)
    assert copies.high - copies.low == pytest.approx(
        (one := grouped_auroc(scores, wanted, groups)).high - one.low, rel=0.05
    )


def test_the_gain_is_the_difference_of_two_areas_on_the_same_questions():
    scores, wanted, groups = sample(n=80, effect=1.5)
    worse = scores - 1.5 * wanted
    found = auroc_gain(scores, worse, wanted, groups)
    assert found.value == pytest.approx(auroc(scores[wanted], scores[~wanted]) - auroc(worse[wanted], worse[~wanted]))
    assert found.low > 0
    none = auroc_gain(scores, 3 * scores + 1, wanted, groups)  # the same ranking
    assert none.value == none.low == none.high == 0
    assert np.isnan(auroc_gain(scores, worse, np.ones_like(wanted), groups).value)


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
