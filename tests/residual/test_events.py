import numpy as np
import pytest

from emscope.residual.events import order_of, pool, precedence

CHOOSER = np.random.default_rng(0)


def trainings(centres, spread=1.0):
    return [centre + CHOOSER.normal(0, spread, 500) for centre in centres]


def test_changes_far_apart_are_ordered_with_certainty():
    at = {"late": [40.0, 42.0, 41.0], "early": [20.0, 21.0, 19.0]}
    found = order_of(at, {name: trainings(values) for name, values in at.items()})
    assert [(pair.first, pair.second) for pair in found] == [("early", "late")]
    assert found[0].probability == 1
    assert found[0].agreeing == 3
    assert found[0].lead.low > 0
    assert found[0].lead.value == pytest.approx(21)


def test_changes_at_the_same_time_are_not_ordered():
    at = {"one": [30.0, 33.0, 27.0], "two": [31.0, 29.0, 30.5]}
    found = order_of(at, {name: trainings(values, 4.0) for name, values in at.items()})[0]
    assert 0.1 < found.probability < 0.9
    assert found.lead.low < 0 < found.lead.high


def test_identical_changes_are_ties():
    draws = [np.full(500, 30.0)]
    assert precedence("one", "two", {"one": [30.0], "two": [30.0]}, {"one": draws, "two": draws}).probability == 0.5


def test_draws_of_one_sample_of_questions_are_paired():
    shared = CHOOSER.normal(0, 10, 500)
    found = precedence("a", "b", {"a": [20.0], "b": [21.0]}, {"a": [20 + shared], "b": [21 + shared]})
    assert found.probability == 1


def test_trainings_that_happen_to_agree_still_leave_an_interval():
    found = pool([30.0, 30.0, 30.0], trainings([30, 30, 30], 2.0))
    assert found.high - found.low > 2


def test_what_questions_contribute_does_not_shrink_with_more_trainings():
    shared = CHOOSER.normal(0, 3, 2000)
    one, many = (pool([30.0] * n, [30 + shared] * n) for n in (1, 9))
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.1)
    apart = {"a": [20.0] * 3, "b": [22.0] * 3}
    still = CHOOSER.normal(0, 0.01, 2000)
    found = precedence("a", "b", apart, {"a": [20 + shared] * 3, "b": [22 + still] * 3})
    assert found.probability == pytest.approx((shared < 2).mean(), abs=0.03)


def test_more_trainings_that_differ_tell_more():
    few, many = pool([29.0, 31.0], trainings([29, 31])), pool([29.0, 31.0] * 4, trainings([29, 31] * 4))
    assert many.high - many.low < few.high - few.low


def test_a_training_without_the_change_is_left_out():
    nothing = np.full(500, np.nan)
    assert pool([30.0, float("nan")], [trainings([30])[0], nothing]).n == 1
    assert pool([float("nan")], [nothing]).n == 0


def test_draws_without_a_change_point_do_not_count():
    early, late = (trainings(centres) for centres in ([20.0, 21.0], [30.0, 31.0]))
    whole = precedence("a", "b", {"a": [20.0, 21.0], "b": [30.0, 31.0]}, {"a": early, "b": late})
    for draws in early:
        draws[:100] = np.nan
    found = precedence("a", "b", {"a": [20.0, 21.0], "b": [30.0, 31.0]}, {"a": early, "b": late})
    assert found.probability == whole.probability == 1
    assert found.lead.low > 0
    nothing = precedence("a", "b", {"a": [20.0], "b": [30.0]}, {"a": [np.full(500, np.nan)], "b": late[:1]})
    assert np.isnan([nothing.probability, nothing.lead.low]).all()
