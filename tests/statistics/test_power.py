import numpy as np
import pytest

from emscope.behaviour.judging import Judgement
from emscope.statistics import (
    design_effect,
    detectable_em_difference,
    detectable_mean_difference,
    detectable_rate,
    em_flags,
)

EM, ALIGNED = Judgement(10, 90), Judgement(90, 90)


@pytest.mark.parametrize(("rate", "n", "deff", "other"), [(0.1, 400, 1, None), (0.0, 96, 2, 200), (0.3, 400, 6, None)])
def test_the_second_rate_equals_statsmodels(rate, n, deff, other):
    power = pytest.importorskip("statsmodels.stats.power")
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    effect = power.NormalIndPower().solve_power(
        nobs1=n / deff, ratio=(other or n) / n, alpha=0.05, power=0.8, alternative="two-sided"
    )
    found = detectable_rate(rate, n, deff, other)
    assert proportion.proportion_effectsize(found, rate) == pytest.approx(abs(effect), abs=1e-4)


def test_the_mean_difference_equals_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power")
    effect = power.NormalIndPower().solve_power(nobs1=100, ratio=2, alpha=0.05, power=0.9, alternative="two-sided")
    assert detectable_mean_difference(20, 100, other_n=200, power=0.9) == pytest.approx(20 * abs(effect), rel=1e-4)


def test_a_test_of_the_detectable_difference_finds_it_four_times_in_five():
    chooser = np.random.default_rng(0)
    second = detectable_rate(0.1, 300)
    counts = chooser.binomial(300, [0.1, second], size=(20_000, 2)) / 300
    pooled = counts.mean(axis=1)
    z = (counts[:, 1] - counts[:, 0]) / np.sqrt(2 * pooled * (1 - pooled) / 300)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


def test_clustering_costs_answers():
    assert detectable_rate(0.1, 400, 4) == detectable_rate(0.1, 100)
    assert detectable_mean_difference(20, 400, 4) == detectable_mean_difference(20, 100)
    assert detectable_rate(0.1, 100) > detectable_rate(0.1, 400) > 0.1


def test_what_no_rate_could_show_is_nan():
    assert np.isnan(detectable_rate(0.5, 4))


def test_the_difference_of_judged_answers():
    groups = [f"q{number // 10}" for number in range(240)]
    chooser = np.random.default_rng(1)
    own = np.repeat(chooser.beta(1, 4, 24), 10)
    judgements = [EM if one else ALIGNED for one in chooser.random(240) < own]
    flags = em_flags(judgements)
    expected = detectable_rate(np.mean(flags), 240, design_effect(flags, groups)) - np.mean(flags)
    assert detectable_em_difference(judgements, groups) == pytest.approx(expected)


def test_no_em_response_at_all_is_no_license():
    groups = [f"q{number // 50}" for number in range(400)]
    found = detectable_em_difference([ALIGNED] * 400, groups)
    assert found == pytest.approx(detectable_rate(0, 400, 1 + 49 / 3))
    assert found > 0.1
    assert np.isnan(detectable_em_difference([], []))
