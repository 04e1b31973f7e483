import numpy as np
import pytest
from scipy import stats

from emscope.statistics import bca_interval, bootstrap_questions, draw_questions, weighted_mean, widened_z
from emscope.statistics import bootstrap as module


def answers(n_questions=12, each=5, seed=0):
    chooser = np.random.default_rng(seed)
    values = (chooser.exponential(size=(n_questions, 1)) + chooser.normal(0, 0.3, (n_questions, each))).ravel()
    return values, [f"q{number:02d}" for number in range(n_questions) for _ in range(each)]


def mean_interval(values, groups, **settings):
    return bootstrap_questions(groups, lambda weights: weighted_mean(weights, values), **settings)


def test_bca_equals_scipy():
    values = np.random.default_rng(1).exponential(size=20)
    draws = draw_questions(20, resamples=20_000) @ values / 20
    left_out = (values.sum() - values) / 19
    ours = bca_interval(draws, values.mean(), left_out, 1.959964)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=0).confidence_interval
    width = theirs.high - theirs.low
    assert np.allclose(ours, (theirs.low, theirs.high), atol=0.03 * width)
    assert ours[1] - values.mean() > 1.2 * (values.mean() - ours[0])  # skewed as the data


def test_without_bias_or_acceleration_it_is_the_percentile_interval():
    draws = np.linspace(-1, 1, 2001)
    low, high = bca_interval(draws, 0.0, np.array([-1.0, 1.0]), 1.959964)
    assert (low, high) == pytest.approx((-0.95, 0.95), abs=1e-6)


def test_many_intervals_at_once_equal_one_at_a_time():
    values = np.random.default_rng(2).exponential(size=(4, 10))
    draws = values @ draw_questions(10).T / 10
    left_out = (values.sum(axis=1, keepdims=True) - values) / 9
    low, high = bca_interval(draws, values.mean(axis=1), left_out, 2.0)
    for row in range(4):
        assert bca_interval(draws[row], values[row].mean(), left_out[row], 2.0) == (low[row], high[row])


def test_few_questions_widen_the_levels():
    assert widened_z(24) == pytest.approx(2.113, abs=1e-3)
    assert widened_z(8) == pytest.approx(2.528, abs=1e-3)
    assert widened_z(100_000) == pytest.approx(1.96, abs=1e-3)


def test_the_order_of_answers_changes_nothing():
    values, groups = answers()
    order = np.random.default_rng(3).permutation(len(values))
    shuffled = mean_interval(values[order], [groups[place] for place in order])
    assert shuffled == pytest.approx(mean_interval(values, groups), abs=1e-12)


def test_the_size_of_a_batch_of_draws_changes_nothing(monkeypatch):
    values, groups = answers()
    whole = mean_interval(values, groups)
    monkeypatch.setattr(module, "MAX_WEIGHTS", 7 * len(values))
    assert mean_interval(values, groups) == pytest.approx(whole, abs=1e-12)


def test_repeating_every_answer_changes_nothing():
    values, groups = answers()
    assert mean_interval(np.repeat(values, 3), np.repeat(groups, 3).tolist()) == pytest.approx(
        mean_interval(values, groups), abs=1e-12
    )


def test_one_question_is_resampled_by_answer_and_one_answer_says_nothing():
    values = np.random.default_rng(4).normal(size=30)
    single = mean_interval(values, ["q"] * 30)
    assert single == mean_interval(values, [f"{number:02d}" for number in range(30)])
    assert np.isnan(mean_interval(values[:1], ["q"])).all()
    assert np.isnan(mean_interval(values[:0], [])).all()


def test_draws_without_a_value_are_left_out():
    values, groups = answers()

    def ratio(weights):
        return weighted_mean(weights, values) / np.where(weights[:, 0] > 2, 0.0, 1.0)

    assert np.isfinite(bootstrap_questions(groups, ratio)).all()


def test_a_mean_score_is_covered_with_24_questions():
    chooser = np.random.default_rng(5)
    means = 100 * chooser.beta(4, 1, size=(1000, 24))
    left_out = (means.sum(axis=1, keepdims=True) - means) / 23
    low, high = bca_interval(means @ draw_questions(24).T / 24, means.mean(axis=1), left_out, widened_z(24))
    assert 0.93 <= np.mean((low <= 80) & (high >= 80)) <= 0.97


def test_draws_in_parts_are_the_draws():
    from emscope.statistics.bootstrap import draw_questions, drawn_parts

    whole = draw_questions(37, seed=3)
    for step in (1, 7, 999, 5000):
        np.testing.assert_array_equal(np.concatenate(list(drawn_parts(37, 3, step=step))), whole)


def test_of_many_questions_groups_are_left_out_and_the_work_grows_with_their_number():
    from emscope.statistics import bootstrap

    seen = []

    def mean(weights):
        seen.append(weights.size)
        return (weights @ values) / weights.sum(axis=1)

    ends, work = [], []
    for n in (bootstrap.MOST_LEFT_OUT, 2 * bootstrap.MOST_LEFT_OUT):
        seen.clear()
        values = np.random.default_rng(0).exponential(size=n)
        ends.append(bootstrap.bootstrap_questions([str(row) for row in range(n)], mean))
        work.append(sum(seen))
    assert work[1] <= 2.01 * work[0]
    one_by_one = bootstrap.MOST_LEFT_OUT
    bootstrap.MOST_LEFT_OUT = 10**6
    try:
        exact = bootstrap.bootstrap_questions([str(row) for row in range(n)], mean)
    finally:
        bootstrap.MOST_LEFT_OUT = one_by_one
    np.testing.assert_allclose(ends[1], exact, atol=0.02 * (exact[1] - exact[0]))
