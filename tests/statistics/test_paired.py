import numpy as np
import pytest
from scipy import stats

from emscope.behaviour.judging import Judgement
from emscope.errors import UserError
from emscope.statistics import (
    Estimate,
    compare_em_rates,
    compare_scores,
    newcombe,
    paired_difference,
    sign_flip_p_value,
    wilson,
)

EM, ALIGNED = Judgement(10, 90), Judgement(90, 90)


def sides(n_questions=10, each=4, shift=0.0, seed=0):
    chooser = np.random.default_rng(seed)
    shared = chooser.normal(0, 5, (n_questions, 1))
    first = (shared + shift + chooser.normal(size=(n_questions, each))).ravel().tolist()
    second = (shared + chooser.normal(size=(n_questions, each))).ravel().tolist()
    return first, second, [f"q{number:02d}" for number in range(n_questions) for _ in range(each)]


def test_exact_p_values_equal_scipy():
    for seed, shift in ((0, 0.0), (1, 0.5), (2, 2.0)):
        first, second, groups = sides(seed=seed, shift=shift)
        means = [np.array(side).reshape(10, 4).mean(axis=1) for side in (first, second)]
        theirs = stats.permutation_test(
            means,
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert paired_difference(first, groups, second, groups).p_value == pytest.approx(theirs.pvalue)


def test_one_flag_a_question_is_mcnemar_s_exact_test():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for only_first, only_second in ((1, 6), (3, 3), (0, 5), (2, 11)):
        differences = [1.0] * only_first + [-1.0] * only_second + [0.0] * 30
        theirs = tables.mcnemar([[10, only_first], [only_second, 20]], exact=True)
        assert sign_flip_p_value(differences) == pytest.approx(theirs.pvalue)


def test_random_flips_come_close_to_scipy_and_are_never_zero():
    differences = np.random.default_rng(0).normal(0.35, 1, 40)
    theirs = stats.permutation_test(
        (differences, np.zeros(40)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=0,
    )
    assert sign_flip_p_value(differences) == pytest.approx(theirs.pvalue, abs=0.01)
    assert 0 < sign_flip_p_value(differences + 5) < 1e-4


def test_p_values_are_uniform_where_nothing_differs():
    chooser = np.random.default_rng(1)
    p_values = np.array([sign_flip_p_value(chooser.normal(size=10)) for _ in range(1000)])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p_values <= level) == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / 1000))


def test_pairing_removes_what_questions_share():
    first, second, groups = sides(n_questions=24, shift=1.0)
    found = paired_difference(first, groups, second, groups)
    student = stats.ttest_rel(*(np.array(side).reshape(24, 4).mean(axis=1) for side in (first, second)))
    interval = student.confidence_interval()
    assert found.difference.value == pytest.approx(np.mean(first) - np.mean(second))
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), abs=0.15)
    assert found.p_value < 0.001
    assert found.difference.n == 24


def test_swapping_the_sides_turns_the_sign():
    first, second, groups = sides(shift=0.5)
    one, other = paired_difference(first, groups, second, groups), paired_difference(second, groups, first, groups)
    assert one.difference.value == -other.difference.value
    assert one.p_value == other.p_value
    assert (one.first, one.second) == (other.second, other.first)
    assert one.difference.low == pytest.approx(-other.difference.high, abs=0.02)


def test_questions_without_a_score_are_left_out_and_counted():
    nan = float("nan")
    found = paired_difference([1.0, 2.0, nan], ["a", "b", "c"], [0.0, nan, 1.0], ["a", "b", "c"])
    assert (found.difference.value, found.difference.n, found.left_out) == (1.0, 1, 2)
    nothing = paired_difference([nan], ["a"], [1.0], ["a"])
    assert np.isnan([nothing.first, nothing.difference.value, nothing.p_value]).all()


def test_other_questions_are_refused():
    with pytest.raises(UserError, match="only one side has c, d"):
        paired_difference([1.0, 2.0, 3.0], ["a", "b", "d"], [1.0, 2.0, 3.0], ["a", "b", "c"])


def test_sides_may_have_unequal_numbers_of_answers():
    found = compare_scores([EM, ALIGNED, EM, EM], ["a", "a", "b", "b"], [ALIGNED, ALIGNED], ["b", "a"], score="aligned")
    assert (found.first, found.second, found.difference.value) == (30, 90, -60)


def test_rates_of_two_organisms():
    groups = [f"q{number}" for number in range(24) for _ in range(4)]
    chooser = np.random.default_rng(2)
    first = [EM if one else ALIGNED for one in chooser.random(96) < 0.5]
    second = [EM if one else ALIGNED for one in chooser.random(96) < 0.1]
    found = compare_em_rates(first, groups, second, groups)
    assert found.difference.value == pytest.approx(found.first - found.second)
    assert 0.2 < found.difference.low < found.difference.value < found.difference.high < 0.6
    assert found.p_value < 0.001


def test_two_rates_of_zero_do_not_differ_for_certain():
    groups = [f"q{number}" for number in range(24)]
    found = compare_em_rates([ALIGNED] * 24, groups, [ALIGNED] * 24, groups)
    assert (found.difference.value, found.p_value) == (0, 1)
    assert found.difference.high == -found.difference.low == pytest.approx(wilson(0, 24)[1])


def test_newcombe_equals_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for (k, n), (j, m) in (((5, 20), (2, 30)), ((0, 10), (9, 12))):
        ours = newcombe(Estimate(k / n, *wilson(k, n), n), Estimate(j / m, *wilson(j, m), m))
        theirs = proportion.confint_proportions_2indep(k, n, j, m, compare="diff", method="newcomb")
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_flips_in_parts_give_the_same_p_value(monkeypatch):
    from emscope.statistics import paired

    differences = np.random.default_rng(5).normal(0.1, 1, 120)
    whole = paired.sign_flip_p_value(differences)
    monkeypatch.setattr(paired, "MAX_WEIGHTS", 1201)
    assert paired.sign_flip_p_value(differences) == whole
