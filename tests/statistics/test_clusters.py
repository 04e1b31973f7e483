import numpy as np
import pytest
from scipy import stats

from emscope.statistics import (
    ASSUMED_ICC,
    assumed_design_effect,
    cluster_standard_error,
    design_effect,
    effective_n,
    intraclass_correlation,
)


def clustered(sizes, seed=0, between=1.0):
    chooser = np.random.default_rng(seed)
    means = np.repeat(chooser.normal(0, between, len(sizes)), sizes)
    return (means + chooser.normal(size=len(means))).tolist(), [
        f"q{n}" for n in np.repeat(np.arange(len(sizes)), sizes)
    ]


def test_the_standard_error_is_the_cluster_robust_one_of_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    values, groups = clustered([3, 9, 4, 1, 7, 6])
    codes = np.unique(groups, return_inverse=True)[1]
    fit = api.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert cluster_standard_error(values, groups) == pytest.approx(fit.bse[0])


def test_the_design_effect_of_flags_is_against_the_binomial_variance():
    flags, groups = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], ["a", "a", "b", "b", "c", "c"]
    assert design_effect(flags, groups) == pytest.approx(cluster_standard_error(flags, groups) ** 2 / (0.25 / 6))


def test_identical_answers_to_a_question_count_once():
    values = np.repeat(np.random.default_rng(1).normal(size=40), 5)
    groups = [f"q{n // 5}" for n in range(200)]
    assert design_effect(values.tolist(), groups) == pytest.approx(5 * 40 / 39)
    assert effective_n(values.tolist(), groups) == pytest.approx(39)
    assert intraclass_correlation(values.tolist(), groups) == pytest.approx(1)


def test_independent_answers_have_an_effect_of_one():
    chooser = np.random.default_rng(2)
    effects = [design_effect(chooser.random(120).tolist(), [f"q{n // 5}" for n in range(120)]) for _ in range(300)]
    assert np.mean(effects) == pytest.approx(1, abs=0.06)
    assert effective_n([0.0, 1.0] * 4, ["a", "a", "b", "b", "c", "c", "d", "d"]) == 8  # an effect of 0 earns nothing


def test_the_correlation_is_that_of_the_analysis_of_variance():
    values, groups = clustered([6] * 10)
    ratio = stats.f_oneway(*np.array(values).reshape(10, 6)).statistic
    assert intraclass_correlation(values, groups) == pytest.approx((ratio - 1) / (ratio + 5))


def test_the_correlation_equals_the_mixed_model_of_statsmodels():
    lm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    values, groups = clustered([8] * 15)
    fit = lm.MixedLM(values, np.ones(len(values)), groups).fit(reml=True)
    between = float(fit.cov_re[0][0] if isinstance(fit.cov_re, np.ndarray) else fit.cov_re.iloc[0, 0])
    assert intraclass_correlation(values, groups) == pytest.approx(between / (between + fit.scale), abs=1e-3)


def test_a_planted_correlation_is_found_with_unequal_questions():
    sizes = np.random.default_rng(3).integers(2, 30, 400)
    values, groups = clustered(sizes, between=0.5)
    assert intraclass_correlation(values, groups) == pytest.approx(0.25 / 1.25, abs=0.03)


def test_kish_links_effect_and_correlation():
    values, groups = clustered([10] * 200)
    expected = 1 + 9 * intraclass_correlation(values, groups)
    assert design_effect(values, groups) == pytest.approx(expected, rel=0.02)


def test_missing_values_are_left_out():
    values, groups = clustered([4, 4, 4])
    odd = [*values, float("nan")]
    for measure in (cluster_standard_error, design_effect, effective_n, intraclass_correlation):
        assert measure(odd, [*groups, "q9"]) == measure(values, groups)
        with pytest.raises(ValueError, match="zip"):
            measure(odd, groups)


def test_what_cannot_be_known_is_nan():
    same = [1.0] * 6
    groups = ["a", "a", "b", "b", "c", "c"]
    for measure in (design_effect, effective_n, intraclass_correlation):
        assert np.isnan(measure(same, groups))
        assert np.isnan(measure([0.0, 1.0], ["a", "a"]))
        assert np.isnan(measure([], []))
    assert np.isnan(intraclass_correlation([0.0, 1.0], ["a", "b"]))


def test_the_assumed_effect_is_kish_with_the_assumed_correlation():
    assert assumed_design_effect(np.full(8, 50)) == pytest.approx(1 + 49 * ASSUMED_ICC)
    assert assumed_design_effect(np.ones(8)) == 1
    assert assumed_design_effect(np.array([50])) == 1
    assert assumed_design_effect(np.full((3, 8), 4.0)).shape == (3,)
