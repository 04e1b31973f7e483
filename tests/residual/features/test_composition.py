import numpy as np
from sklearn.linear_model import orthogonal_mp

from emscope.residual.directions import unit
from emscope.residual.features.composition import (
    contributions,
    how_many,
    isotropic,
    like_activations,
    part_within,
    pursue,
)


def test_pursuit_agrees_with_scikit_learn():
    rows, targets = isotropic(60, 20, 0), isotropic(5, 20, 1)
    found = pursue(rows, targets, 6)
    for step in range(6):
        weights = orthogonal_mp(rows.T, targets.T, n_nonzero_coefs=step + 1)
        reached = np.linalg.norm(rows.T @ weights, axis=0)
        np.testing.assert_allclose(found.cosines[step], reached, rtol=1e-6)
        for target in range(5):
            assert set(np.flatnonzero(weights[:, target])) == set(found.features[: step + 1, target])


def test_a_direction_made_of_three_features_is_seen_as_such():
    rows = isotropic(400, 64, 0)
    planted = rows[[7, 100, 300]].T @ [3.0, -2.0, 1.5]
    found = pursue(rows, np.stack([planted, *isotropic(20, 64, 2)]), 10)
    assert set(found.features[:3, 0].tolist()) == {7, 100, 300}
    assert found.cosines[2, 0] > 0.999
    assert found.cosines[2, 1:].max() < 0.9


def test_no_row_is_taken_twice_and_cosines_rise_to_one():
    rows = isotropic(12, 8, 0)
    found = pursue(rows, isotropic(3, 8, 1), 50)
    assert len(found.cosines) == 8
    assert all(len(set(column)) == len(column) for column in found.features.T.tolist())
    assert (np.diff(found.cosines, axis=0) > -1e-9).all()
    np.testing.assert_allclose(found.cosines[-1], 1, rtol=1e-9)


def test_the_part_within_a_span_is_the_projection():
    rows, vector = isotropic(3, 10, 0), isotropic(1, 10, 1)[0]
    part = part_within(rows, vector)
    np.testing.assert_allclose(rows @ (vector - part), 0, atol=1e-6)
    np.testing.assert_allclose(part_within(rows, part), part, atol=1e-6)


def test_directions_like_activations_have_their_covariance():
    scales = np.array([10.0, 3.0, 1.0, 0.1])
    values = np.random.default_rng(0).standard_normal((4000, 4)) * scales + 50
    drawn = like_activations(4000, values, 1)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    spreads = drawn.std(axis=0)
    assert (np.diff(spreads) < 0).all()
    assert spreads[0] > 0.8
    assert abs(isotropic(4000, 4, 1).std(axis=0) - 0.5).max() < 0.02


def test_contributions_add_up_to_what_the_features_write():
    rows = isotropic(30, 8, 0)
    change = np.random.default_rng(1).standard_normal(30)
    rest = isotropic(1, 8, 2)[0] * 0.3
    direction = change @ rows + rest
    shares = contributions(rows, change, direction)
    np.testing.assert_allclose(shares.sum(), 1 - rest @ unit(direction) / np.linalg.norm(direction))


def test_how_many_counts_from_the_largest():
    assert how_many(np.array([0.1, 0.5, 0.05, 0.2]), (0.5, 0.6, 0.85, 0.9)) == {
        "0.5": 1,
        "0.6": 2,
        "0.85": 4,
        "0.9": None,
    }
