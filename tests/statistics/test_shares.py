import numpy as np
import pytest

from emscope.statistics import draw_questions, estimate_share, share_interval, wilson


def simulate(questions, answers, rate, correlation, n=1000, seed=0):
    chooser = np.random.default_rng(seed)
    size = (1 - correlation) / correlation
    own = chooser.beta(rate * size, (1 - rate) * size, size=(n, questions))
    return chooser.binomial(answers, own).astype(float), np.full((n, questions), float(answers))


def names(questions, answers):
    return [f"q{number:03d}" for number in range(questions) for _ in range(answers)]


@pytest.mark.parametrize(("answers", "rate", "correlation"), [(50, 0.2, 0.3), (50, 0.05, 0.1), (10, 0.1, 0.15)])
def test_the_truth_is_covered_with_24_questions(answers, rate, correlation):
    hits, sizes = simulate(24, answers, rate, correlation)
    low, high = share_interval(hits, sizes, draw_questions(24))
    assert 0.93 <= np.mean((low <= rate) & (rate <= high)) <= 0.975  # 1,000 simulations are good to 0.7 points


def test_the_truth_is_covered_with_8_questions():
    hits, sizes = simulate(8, 50, 0.2, 0.3)
    low, high = share_interval(hits, sizes, draw_questions(8))
    assert 0.92 <= np.mean((low <= 0.2) & (high >= 0.2)) <= 0.98


@pytest.mark.parametrize("questions", [2, 3, 8, 24])
def test_an_interval_holds_its_share_and_stays_between_0_and_1(questions):
    chooser = np.random.default_rng(questions)
    sizes = chooser.integers(1, 9, size=(500, questions)).astype(float)
    hits = chooser.binomial(sizes.astype(int), chooser.beta(0.3, 0.9, size=sizes.shape)).astype(float)
    low, high = share_interval(hits, sizes, draw_questions(questions))
    share = hits.sum(axis=1) / sizes.sum(axis=1)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= share + 1e-12).all()
    assert (share <= high + 1e-12).all()
    assert (high > low).all()


def test_misses_mirror_hits():
    hits, sizes = simulate(24, 5, 0.2, 0.2, n=50)
    low, high = share_interval(hits, sizes, draw_questions(24))
    mirrored = share_interval(sizes - hits, sizes, draw_questions(24))
    assert np.allclose(1 - mirrored[1], low, atol=1e-6)
    assert np.allclose(1 - mirrored[0], high, atol=1e-6)


def test_answers_one_by_one_give_the_interval_of_their_counts():
    hits, sizes = simulate(10, 4, 0.3, 0.2, n=5)
    low, high = share_interval(hits, sizes, draw_questions(10))
    for row in range(5):
        flags = [float(one < count) for count in hits[row] for one in range(4)]
        found = estimate_share(flags, names(10, 4))
        assert (found.low, found.high) == pytest.approx((low[row], high[row]), abs=1e-12)


def test_zero_of_many_answers_to_few_questions_is_less_certain_than_of_many_questions():
    few, many = estimate_share([0.0] * 1200, names(24, 50)), estimate_share([0.0] * 1200, names(1200, 1))
    assert few.low == many.low == 0
    assert many.high == pytest.approx(wilson(0, 1200)[1])
    assert few.high == pytest.approx(wilson(0, 1200 / (1 + 49 / 3))[1])
    assert few.high > 10 * many.high


def test_questions_that_agree_by_chance_still_have_a_width():
    found = estimate_share([1.0, 0.0, 0.0, 0.0] * 2, names(2, 4))
    assert found.high - found.low > 0.3


def test_one_question_has_the_interval_of_its_answers():
    found = estimate_share([1.0, 0.0, 0.0, float("nan")], ["q"] * 4)
    assert (found.low, found.high, found.n) == (*wilson(1, 3), 3)


def test_without_clustering_it_is_close_to_wilson():
    flags = (np.random.default_rng(0).random(300) < 0.3).astype(float)
    found = estimate_share(flags.tolist(), names(300, 1))
    assert (found.low, found.high) == pytest.approx(wilson(flags.sum(), 300), abs=0.01)


def test_wilson_equals_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for k, n in ((0, 10), (3, 17), (50, 50), (2.5, 12.5)):
        assert wilson(k, n) == pytest.approx(proportion.proportion_confint(k, n, method="wilson"), abs=1e-6)


def test_an_interval_from_draws_in_parts_is_the_interval():
    from emscope.statistics.bootstrap import draw_questions, drawn_parts
    from emscope.statistics.shares import share_interval

    chooser = np.random.default_rng(2)
    sizes = chooser.integers(1, 9, 50).astype(float)
    hits = np.minimum(sizes, chooser.integers(0, 4, 50)).astype(float)
    assert share_interval(hits, sizes, drawn_parts(50, step=7)) == share_interval(hits, sizes, draw_questions(50))
