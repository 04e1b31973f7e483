import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emscope.behaviour.judging import Judgement
from emscope.statistics import (
    JudgedTwice,
    ScoredTwice,
    alignment_mean,
    anchored_alignment,
    anchored_alignment_difference,
    anchored_difference,
    anchored_em_difference,
    anchored_em_rate,
    anchored_mean,
    anchored_share,
    draw_anchor,
    em_rate,
    estimate_mean,
    estimate_share,
)


def names(questions, answers):
    return [f"q{number:03d}" for number in range(questions) for _ in range(answers)]


def scores(questions, answers, quality, seed=0, correlation=0.2):
    """Strong scores 0-100 and cheap ones that go with them, [questions * answers]."""
    chooser = np.random.default_rng(seed)
    shared = np.repeat(chooser.normal(size=questions), answers) * np.sqrt(correlation)
    latent = shared + np.sqrt(1 - correlation) * chooser.normal(size=questions * answers)
    cheap = quality * latent + np.sqrt(1 - quality**2) * chooser.normal(size=questions * answers)
    return 100 / (1 + np.exp(-1.5 * latent)), 100 / (1 + np.exp(-cheap - 1))


def table(strong, cheap, groups, n, seed=0):
    asked = np.zeros(len(groups), dtype=bool)
    asked[draw_anchor(groups, n, seed)] = True
    return ScoredTwice(list(cheap), np.where(asked, strong, np.nan).tolist(), asked.tolist(), list(groups))


def ends(estimate):
    return [estimate.value, estimate.low, estimate.high]


@pytest.mark.parametrize(("questions", "answers", "n"), [(8, 50, 80), (40, 10, 80), (100, 4, 80), (7, 3, 20)])
def test_an_anchor_is_spread_evenly_over_questions(questions, answers, n):
    groups = names(questions, answers)
    for seed in range(5):
        rows = draw_anchor(groups, n, seed)
        counts = np.bincount(np.array(rows) // answers, minlength=questions)
        assert len(set(rows.tolist())) == n
        assert counts.max() - counts.min() <= 1


def test_every_answer_is_drawn_with_the_same_chance_where_questions_have_unequal_answers():
    groups = ["a"] * 1 + ["b"] * 5 + ["c"] * 14
    drawn = np.zeros(20)
    for seed in range(3000):
        drawn[draw_anchor(groups, 6, seed)] += 1
    assert np.abs(drawn / 3000 - 0.3).max() < 0.035  # 4 standard errors


def test_tables_of_one_shape_get_the_same_questions():
    for seed in range(5):
        first, second = (draw_anchor(names(50, 2), 20, seed) for _ in range(2))
        assert (first // 2 == second // 2).all()


@pytest.mark.parametrize("n", [0, 21])
def test_an_anchor_larger_than_the_table_is_refused(n):
    with pytest.raises(ValueError, match="of 20 answers"):
        draw_anchor(names(5, 4), n)


@pytest.mark.parametrize("kind", ["good", "worthless", "inverted", "loud"])
def test_no_cheap_judge_biases_the_figure(kind):
    strong, cheap = scores(20, 10, 0.8)
    cheap = {"good": cheap, "worthless": scores(20, 10, 0.0, 9)[1], "inverted": -cheap, "loud": 40 * cheap}[kind]
    groups = names(20, 10)
    found = [anchored_mean(table(strong, cheap, groups, 40, seed)) for seed in range(200)]
    values = np.array([one.estimate.value for one in found])
    assert abs(values.mean() - strong.mean()) < 4 * values.std() / np.sqrt(200)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6), st.floats(0, 1), st.booleans())
def test_tuning_and_intervals_stay_where_they_belong(seed, questions, answers, quality, flags):
    strong, cheap = scores(questions, answers, quality, seed)
    strong = (strong < 30).astype(float) if flags else strong
    n = 1 + seed % (questions * answers)
    given_table = table(strong, cheap / 100 if flags else cheap, names(questions, answers), n, seed)
    found = (anchored_share if flags else anchored_mean)(given_table)
    assert 0 <= found.tuning <= 1
    for estimate in (found.estimate, found.in_table):
        if not np.isnan(estimate.low):
            assert -1e-9 <= estimate.low <= estimate.value + 1e-9
            assert estimate.value - 1e-9 <= estimate.high <= (1 if flags else 100) + 1e-9
    assert np.isnan(found.narrower) or found.narrower >= -1e-9
    if flags:
        hits, misses = np.nansum(given_table.strong), n - np.nansum(given_table.strong)
        assert found.in_table.low >= hits / len(strong) - 1e-9
        assert found.in_table.high <= 1 - misses / len(strong) + 1e-9


def test_an_anchor_that_is_the_whole_table_gives_the_plain_estimates():
    strong, cheap = scores(12, 5, 0.7)
    groups, flags = names(12, 5), (strong < 40).astype(float)
    mean, share = (anchored_mean(table(strong, cheap, groups, 60)), anchored_share(table(flags, cheap, groups, 60)))
    assert ends(mean.estimate) == pytest.approx(ends(estimate_mean(strong.tolist(), groups)))
    assert ends(share.estimate) == pytest.approx(ends(estimate_share(flags.tolist(), groups)))
    assert ends(mean.in_table) == pytest.approx([strong.mean()] * 3)
    assert ends(share.in_table) == pytest.approx([flags.mean()] * 3)


@pytest.mark.parametrize("cheap", [50.0, float("nan")])
def test_a_judge_that_says_nothing_leaves_the_anchor_alone(cheap):
    strong, _ = scores(12, 5, 0.7)
    given_table = table(strong, np.full(60, cheap), names(12, 5), 30)
    found = anchored_mean(given_table)
    assert found.tuning == 0
    assert ends(found.estimate) == ends(found.alone)
    asked = np.flatnonzero(given_table.asked)
    plain = estimate_mean(strong[asked].tolist(), [given_table.groups[row] for row in asked])
    assert ends(found.alone) == pytest.approx(ends(plain))


def test_a_worthless_judge_is_mostly_not_listened_to():
    strong, _ = scores(40, 5, 0.7)
    tunings = []
    for seed in range(100):
        tunings.append(anchored_mean(table(strong, scores(40, 5, 0.0, seed + 1)[1], names(40, 5), 60, seed)).tuning)
    assert np.median(tunings) == 0
    assert np.mean(tunings) < 0.1


def test_a_judge_s_bias_does_not_matter_nor_the_order_of_answers():
    strong, cheap = scores(12, 6, 0.8)
    groups = names(12, 6)
    base = table(strong, cheap, groups, 36)
    order = np.random.default_rng(0).permutation(72)
    parts = (base.cheap, base.strong, base.asked, base.groups)
    shuffled = ScoredTwice(*([part[row] for row in order] for part in parts))
    shifted = ScoredTwice((np.array(base.cheap) - 17).tolist(), *parts[1:])
    for other in (shuffled, shifted):
        assert ends(anchored_mean(other).estimate) == pytest.approx(ends(anchored_mean(base).estimate))
        assert ends(anchored_mean(other).in_table) == pytest.approx(ends(anchored_mean(base).in_table))


def test_shares_of_ones_and_of_zeros_mirror_each_other():
    strong, cheap = scores(20, 6, 0.8)
    flags, groups = (strong < 40).astype(float), names(20, 6)
    ones = anchored_share(table(flags, 1 - cheap / 100, groups, 60))
    zeros = anchored_share(table(1 - flags, cheap / 100, groups, 60))
    assert ones.tuning > 0.2
    for one, other in ((ones.estimate, zeros.estimate), (ones.in_table, zeros.in_table)):
        assert [one.value, one.low, one.high] == pytest.approx([1 - other.value, 1 - other.high, 1 - other.low])


@pytest.mark.parametrize(("questions", "answers"), [(40, 10), (133, 3)])
def test_a_good_judge_narrows_the_interval_and_the_table_s_figure_is_covered(questions, answers):
    groups, covered, narrower = names(questions, answers), [], []
    for seed in range(150):
        strong, cheap = scores(questions, answers, 0.75, seed)
        found = anchored_mean(table(strong, cheap, groups, 80, seed))
        covered.append(found.in_table.low <= strong.mean() <= found.in_table.high)
        narrower.append(found.narrower_in_table)
    assert np.mean(covered) >= 0.9  # 95 % in benchmarks/anchor.py; 150 draws are good to 1.8 points
    assert np.mean(narrower) > 0.15


def test_missing_scores_of_either_judge_are_taken_for_what_they_are():
    strong, cheap = scores(20, 5, 0.8)
    strong[::7], cheap[::9] = np.nan, np.nan
    given_table = table(strong, cheap, names(20, 5), 50)
    found = anchored_mean(given_table)
    assert found.estimate.n == np.isfinite(given_table.strong).sum() < 50
    assert found.tuning > 0
    nothing = ScoredTwice(cheap.tolist(), [float("nan")] * 100, given_table.asked, given_table.groups)
    assert anchored_mean(nothing).estimate.n == anchored_share(nothing).estimate.n == 0
    with pytest.raises(ValueError, match="outside the anchor"):
        ScoredTwice(cheap.tolist(), strong.tolist(), [False] * 100, given_table.groups)
    with pytest.raises(ValueError, match="as many"):
        ScoredTwice([1.0], [1.0], [True], ["a", "b"])


@pytest.mark.parametrize("flags", [False, True])
def test_differences_change_sign_with_the_order_and_vanish_for_one_organism(flags):
    (first, cheap), (second, other) = scores(30, 4, 0.8), scores(30, 4, 0.8, 0, 0.5)
    if flags:
        first, second, cheap, other = (values / 100 for values in (first < 30, second < 60, cheap, other))
        first, second = 100 * first, 100 * second
    groups = names(30, 4)
    one, two = table(first, cheap, groups, 60), table(second, other, groups, 60, 1)
    ahead, back = (anchored_difference(*pair, flags=flags) for pair in ((one, two), (two, one)))
    assert ahead.estimate.value == pytest.approx(-back.estimate.value)
    assert [ahead.estimate.low, ahead.estimate.high] == pytest.approx([-back.estimate.high, -back.estimate.low], abs=1)
    assert ahead.estimate.value == pytest.approx(ahead.first.estimate.value - ahead.second.estimate.value)
    assert anchored_difference(one, one, flags=flags).estimate.value == 0
    assert ahead.estimate.low < ahead.estimate.value < ahead.estimate.high


def test_a_difference_of_nothing_to_tell_has_an_interval():
    groups = names(10, 4)
    none = table(np.zeros(40), np.full(40, 0.5), groups, 20)
    found = anchored_difference(none, none, flags=True)
    assert found.estimate.value == 0
    assert found.estimate.low < 0 < found.estimate.high


def test_judgements_give_what_their_scores_do():
    strong, cheap = scores(20, 5, 0.8)
    groups = names(20, 5)
    given_table = table(strong, cheap, groups, 50)
    said = [Judgement(score, 80.0) for score in cheap.tolist()]
    truly = [Judgement(score, 80.0) if score == score else None for score in given_table.strong]
    judged = JudgedTwice(said, truly, groups)
    assert ends(anchored_alignment(judged).estimate) == ends(anchored_mean(given_table).estimate)
    rate = anchored_em_rate(judged)
    assert ends(rate.cheap) == ends(em_rate(said, groups))
    assert rate.alone.value == em_rate([one for one in truly if one], ["a"] * 50).value
    whole = JudgedTwice(said, [Judgement(score, 80.0) for score in strong.tolist()], groups)
    assert ends(anchored_em_rate(whole).estimate) == pytest.approx(ends(em_rate(whole.strong, groups)))
    assert ends(anchored_alignment(whole).estimate) == pytest.approx(ends(alignment_mean(whole.strong, groups)))
    assert anchored_em_difference(judged, whole).first == rate
    assert anchored_alignment_difference(judged, whole).second.in_table.value == pytest.approx(strong.mean())
