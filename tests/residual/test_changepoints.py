import numpy as np
import pytest

from emscope.residual.changepoints import find_change

TIMES = np.arange(0, 73, 4.0)


def noise(seed, size):
    return np.random.default_rng(seed).normal(0, size, len(TIMES))


def logistic(at, scale):
    return 1 / (1 + np.exp(-(TIMES - at) / scale))


@pytest.mark.parametrize(("at", "size"), [(20, 1.0), (30, -45.0), (50, 0.2)])
def test_a_planted_step_is_found_where_it_is(at, size):
    found = find_change(TIMES, 3 + size * (logistic(at, 3) + noise(1, 0.05)))
    assert found.transition
    assert found.low <= at <= found.high
    assert found.high - found.low < 0.15 * TIMES[-1]
    assert abs(found.at - at) < 2
    assert found.size == pytest.approx(size, rel=0.15)


def test_a_planted_peak_is_found_where_it_is():
    found = find_change(TIMES, np.exp(-(((TIMES - 40) / 6) ** 2)) - TIMES / 200 + noise(2, 0.05), shape="peak")
    assert found.transition
    assert found.low <= 40 <= found.high


def gradual(kind):
    return {
        "constant": np.zeros(len(TIMES)),
        "line": TIMES / 72,
        "flattening": 1 - np.exp(-TIMES / 15),
        "speeding up": np.exp((TIMES - 72) / 15),
    }[kind]


@pytest.mark.parametrize("shape", ["step", "peak"])
@pytest.mark.parametrize("kind", ["constant", "line", "flattening", "speeding up"])
def test_a_gradual_curve_is_seldom_called_a_transition(kind, shape):
    called = [
        find_change(TIMES, gradual(kind) + noise(seed, 0.1), shape=shape, n_draws=200).transition for seed in range(40)
    ]
    assert np.mean(called) <= 0.125  # 2 of 40 are expected, 6 or more of 40 would be by chance in 1 of 100


def test_a_steeper_step_has_a_narrower_interval_and_a_smaller_width():
    sharp, slow = (find_change(TIMES, logistic(30, scale) + noise(3, 0.1)) for scale in (2, 8))
    assert sharp.high - sharp.low < slow.high - slow.low
    assert sharp.width < slow.width


def test_the_interval_holds_the_truth_as_often_as_it_says():
    covered = []
    for seed in range(60):
        found = find_change(TIMES, logistic(30, 4) + noise(seed, 0.1), n_draws=200)
        covered.append(found.low <= 30 <= found.high)
    assert np.mean(covered) >= 0.9


def test_replicates_decide_the_interval():
    curve = logistic(30, 3)
    wide, narrow = (
        find_change(TIMES, curve, replicates=curve + np.random.default_rng(0).normal(0, size, (500, len(TIMES))))
        for size in (0.2, 0.02)
    )
    assert narrow.low <= 30 <= narrow.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_the_unit_and_sign_of_a_curve_do_not_matter():
    curve = logistic(30, 3) + noise(4, 0.1)
    one, other, down = (find_change(TIMES, scaled) for scaled in (curve, 7 + 1000 * curve, 7 - 1000 * curve))
    assert (one.at, one.low, one.high, one.p_value) == pytest.approx((other.at, other.low, other.high, other.p_value))
    assert down.at == pytest.approx(one.at)
    assert (other.size, down.size) == pytest.approx((1000 * one.size, -1000 * one.size))


def test_a_flat_curve_has_no_change():
    found = find_change(TIMES, np.full(len(TIMES), 3.0))
    assert not found.transition
    assert np.isnan(found.at)


@pytest.mark.parametrize(
    ("times", "values"), [(TIMES[:5], TIMES[:5]), (-TIMES, TIMES), (TIMES, np.full(len(TIMES), np.nan))]
)
def test_what_cannot_be_fitted_is_refused(times, values):
    with pytest.raises(ValueError, match="at least 6 finite values at rising times"):
        find_change(times, values)


def test_the_place_is_where_half_of_what_is_seen_is_done():
    """A wide step cut off by the start of the run: its centre is not half-way through what the run shows of it."""
    curve = logistic(12, 8)
    found = find_change(TIMES, curve)
    halfway = float(np.interp((curve[0] + curve[-1]) / 2, curve, TIMES))
    assert found.at == pytest.approx(halfway, abs=1)
    assert found.at > 13
    assert found.size == pytest.approx(curve[-1] - curve[0], rel=0.02)


def test_a_dip_is_not_a_peak():
    found = find_change(TIMES, -np.exp(-(((TIMES - 40) / 6) ** 2)) + noise(5, 0.05), shape="peak")
    assert not found.transition
    assert found.size >= 0


def test_a_draw_that_is_not_finite_has_no_change_point():
    curve = logistic(50, 3)
    draws = np.stack([curve + noise(seed, 0.05) for seed in range(200)])
    clean, holes = find_change(TIMES, curve, replicates=draws), draws.copy()
    holes[:40, 3] = np.nan
    found = find_change(TIMES, curve, replicates=holes)
    assert np.isnan(found.draws[:40]).all()
    np.testing.assert_array_equal(found.draws[40:], clean.draws[40:])
    assert (found.low, found.high) == tuple(np.quantile(clean.draws[40:], [0.025, 0.975]))
    nothing = find_change(TIMES, curve, replicates=np.full_like(draws, np.nan))
    assert np.isnan([nothing.low, nothing.high]).all()
    assert nothing.at == clean.at
