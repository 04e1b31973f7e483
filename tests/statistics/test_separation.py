"""AUROC, d′ and balanced accuracy, plain, by question and weighted at many blocks, agree with each other."""

import numpy as np
import pytest

from emscope.statistics.separation import (
    auroc,
    auroc_gain,
    auroc_interval,
    grouped_auroc,
    separation_by_block,
)


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


def test_wordings_of_one_question_are_one_question_to_an_interval():
    chooser = np.random.default_rng(0)
    high, low = chooser.normal(0.7, 1, 12), chooser.normal(0, 1, 12)
    names = [f"q{9 - row % 10}-{row}" for row in range(12)]
    once = auroc_interval(high, low)
    assert auroc_interval(high, low, groups=names) == once
    often = [np.repeat(side, 6) for side in (high, low)]
    assert auroc_interval(*often, groups=np.repeat(names, 6).tolist()) == pytest.approx(once)
    alone = auroc_interval(*often)
    assert alone[1] - alone[0] < 0.6 * (once[1] - once[0])


def test_ties_count_one_half():
    assert auroc(np.ones(5), np.ones(5)) == 0.5


def test_weighted_figures_equal_plain_ones_on_repeated_rows():
    chooser = np.random.default_rng(0)
    scores, labels = chooser.standard_normal((30, 2)), np.tile([1, 0], 15)
    scores[labels == 1] += 0.7
    questions, times = np.repeat(np.arange(15), 2).astype(str), np.tile([1, 2, 3], 10)
    found = separation_by_block(scores, labels, questions, times.astype(float))
    again = np.repeat(np.arange(30), times)
    for block in range(2):
        column, side = scores[again, block], labels[again]
        assert found.auroc.value[block] == pytest.approx(auroc(column[side == 1], column[side == 0]))
        assert found.accuracy.value[block] == pytest.approx(
            ((column[side == 1] > 0).mean() + (column[side == 0] <= 0).mean()) / 2
        )
        gap = column[side == 1].mean() - column[side == 0].mean()
        spread = np.sqrt((column[side == 1].var() + column[side == 0].var()) / 2)
        assert found.d_prime.value[block] == pytest.approx(gap / spread)


def test_figures_of_one_question_have_no_interval():
    scores, labels = np.random.default_rng(0).standard_normal((8, 2)), np.arange(8) % 2
    found = separation_by_block(scores, labels, np.full(8, "q"), np.ones(8))
    for figure in (found.auroc, found.accuracy, found.d_prime):
        assert np.isfinite(figure.value).all()
        assert np.isnan([figure.low, figure.high]).all()


def test_draws_without_spread_do_not_stretch_the_interval_and_a_dead_block_does_not_cost_the_others():
    """Three questions with one answer a side: one draw in nine holds a single question, and so no spread at all."""
    labels, questions = np.array([1, 1, 1, 0, 0, 0]), np.array(["a", "b", "c"] * 2)
    scores = np.stack([np.array([1.0, 2.0, 4.0, 0.0, 0.5, 0.7]), np.full(6, 0.3), np.array([1, 1, 1, 0, 0, 0])], axis=1)
    found = separation_by_block(scores, labels, questions, np.ones(6)).d_prime
    assert 0 < found.low[0] <= found.value[0] <= found.high[0] < 1e3
    assert found.value[1] == found.low[1] == found.high[1] == 0
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()
