import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from emscope.behaviour.embedded.ridge import fit_ridge, left_out_values

CHOOSER = np.random.default_rng(0)
N, WIDTH = 60, 5
X = CHOOSER.normal(3.0, [1.0, 2.0, 5.0, 0.1, 1.0], (N, WIDTH))
TARGETS = X @ CHOOSER.normal(size=WIDTH) + CHOOSER.normal(size=N)
GROUPS = np.arange(N) % 3


@pytest.mark.parametrize("weights", [np.ones(N), np.where(np.arange(N) % 4, 1.0, 0.0), CHOOSER.uniform(0.1, 2, N)])
def test_the_ridge_is_the_weighted_one_on_standardised_features(weights):
    shares = weights / weights.mean()
    mean = np.average(X, axis=0, weights=shares)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=shares))
    reference = Reference(alpha=0.3 * WIDTH).fit((X - mean) / scale, TARGETS, sample_weight=shares)
    slopes, bias = fit_ridge(X, TARGETS, weights, 0.3)
    np.testing.assert_allclose(X @ slopes + bias, reference.predict((X - mean) / scale), rtol=1e-4, atol=1e-3)


def test_a_value_comes_from_a_ridge_that_never_saw_its_group():
    values = left_out_values(X, TARGETS, np.ones(N), GROUPS, [0.1, 1.0])
    for group in range(3):
        out = group == GROUPS
        for penalty, found in values.items():
            slopes, bias = fit_ridge(X[~out], TARGETS[~out], np.ones(int((~out).sum())), penalty)
            np.testing.assert_allclose(found[out], X[out] @ slopes + bias, rtol=1e-6, atol=1e-8)
