import numpy as np
import pytest

from emscope.residual.features.composition import isotropic
from emscope.residual.features.superposition import clustered, interference, layout, like_rows


def test_orthogonal_vectors_do_not_interfere_and_twins_do():
    found = interference(np.eye(6))
    assert (found.spread, found.beyond, found.nearest, found.dimensions) == (0, 0, 0, 1)
    twins = interference(np.repeat(np.eye(6), 2, axis=0))
    assert twins.nearest == 1
    assert twins.dimensions == pytest.approx(0.5)
    assert sum(twins.histogram) == pytest.approx(1)
    assert twins.histogram[-1] == pytest.approx(1 / 11)


def test_random_vectors_have_the_spread_of_their_dimension():
    assert interference(isotropic(1500, 100, 0)).spread == pytest.approx(0.1, rel=0.02)


def test_vectors_like_anisotropic_rows_are_as_crowded():
    scales = np.linspace(3, 0.1, 40)
    rows = isotropic(800, 40, 0) * scales
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alike, even = interference(like_rows(rows)).spread, interference(isotropic(800, 40, 1)).spread
    own = interference(rows).spread
    assert own > 1.2 * even
    assert alike == pytest.approx(own, rel=0.05)


def test_like_stands_beside_like():
    chooser = np.random.default_rng(0)
    groups = np.tile([0, 1, 2], 5)
    rows = np.eye(3, 20)[groups] + 0.02 * chooser.standard_normal((15, 20))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = clustered(rows)
    assert sorted(order) == list(range(15))
    assert (np.diff(groups[order]) != 0).sum() == 2


def test_the_layout_puts_extra_vectors_where_their_twins_are():
    rows = isotropic(50, 12, 0)
    places, extra, share = layout(rows, rows[3:5])
    np.testing.assert_allclose(extra, places[3:5])
    assert 2 / 12 < share < 0.5
    flat = np.outer(np.arange(5.0), np.eye(12)[0])
    assert layout(flat, flat[:1])[2] == pytest.approx(1)
