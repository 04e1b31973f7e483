import numpy as np
import pytest

from emscope.residual.adapters.lowrank import LowRank, inner_products
from emscope.residual.adapters.scalars import readers


def update(rank=4, d_in=12, d_out=9, seed=0, scale=2.0):
    chooser = np.random.default_rng(seed)
    a, b = chooser.standard_normal((rank, d_in)), chooser.standard_normal((d_out, rank))
    return LowRank(a.astype(np.float32), b.astype(np.float32), scale)


def dense(one):
    return one.scale * one.b.astype(np.float64) @ one.a.astype(np.float64)


def test_the_small_problem_has_the_singular_values_and_norms_of_the_whole_matrix():
    one = update()
    values = np.linalg.svd(dense(one), compute_uv=False)
    np.testing.assert_allclose(one.singular_values, values[:4], rtol=1e-6)
    assert one.frobenius == pytest.approx(np.linalg.norm(dense(one)), rel=1e-6)
    assert one.spectral == pytest.approx(values[0], rel=1e-6)
    assert one.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-6)
    left, own, right = one.svd
    np.testing.assert_allclose((left * own) @ right.T, dense(one), atol=1e-5)


def test_shares_and_writes_are_those_of_the_whole_matrix():
    one, chooser = update(), np.random.default_rng(1)
    out, into = (np.linalg.qr(chooser.standard_normal((size, 3)))[0] for size in (9, 12))
    total = np.linalg.norm(dense(one)) ** 2
    assert one.output_share(out) == pytest.approx(np.linalg.norm(out.T @ dense(one)) ** 2 / total, rel=1e-6)
    assert one.input_share(into) == pytest.approx(np.linalg.norm(dense(one) @ into) ** 2 / total, rel=1e-6)
    assert one.output_share(np.eye(9)) == pytest.approx(1)
    x = chooser.standard_normal((5, 12))
    np.testing.assert_allclose(one.apply(x), x @ dense(one).T, atol=1e-5)


def test_inner_products_mix_ranks_and_missing_modules():
    updates = [update(4, seed=1), None, update(2, seed=2, scale=0.5), update(1, seed=3)]
    found = inner_products(updates)
    for i, one in enumerate(updates):
        for j, two in enumerate(updates):
            wanted = 0 if one is None or two is None else (dense(one) * dense(two)).sum()
            assert found[i, j] == pytest.approx(wanted, rel=1e-5, abs=1e-4)
    assert (inner_products([None, None]) == 0).all()


def test_nothing_depends_on_how_the_product_is_factored():
    one = update()
    mix = np.random.default_rng(5).standard_normal((4, 4)) + 3 * np.eye(4)
    two = LowRank((np.linalg.inv(mix) @ one.a).astype(np.float32), (one.b @ mix).astype(np.float32), one.scale)
    assert not np.allclose(one.a, two.a)
    np.testing.assert_allclose(one.singular_values, two.singular_values, rtol=1e-4)
    assert one.effective_rank == pytest.approx(two.effective_rank, rel=1e-4)
    np.testing.assert_allclose(one.apply(np.eye(12)), two.apply(np.eye(12)), atol=1e-4)
    np.testing.assert_allclose(inner_products([one, two]), inner_products([one, one]), rtol=1e-4)
    np.testing.assert_allclose(readers({"m": one})["m"], readers({"m": two})["m"], atol=1e-4)


def test_a_zero_update_has_no_direction_and_no_share():
    zero = LowRank(np.ones((2, 5), np.float32), np.zeros((6, 2), np.float32), 1.0)
    assert (zero.frobenius, zero.stable_rank, zero.effective_rank, zero.output_share(np.eye(6))) == (0, 0, 0, 0)


def test_a_rank_one_scalar_is_a_times_x():
    one = update(rank=1)
    reader = readers({"m": one})["m"]
    assert abs(np.dot(reader, one.a[0])) == pytest.approx(np.linalg.norm(reader) * np.linalg.norm(one.a[0]), rel=1e-6)
    assert np.linalg.norm(reader) == pytest.approx(one.spectral, rel=1e-6)


@pytest.mark.parametrize(("rank", "d_in", "d_out"), [(12, 12, 9), (20, 12, 9), (10, 9, 12), (1, 1, 1)])
def test_a_rank_beyond_the_widths_is_no_trouble(rank, d_in, d_out):
    one = update(rank, d_in, d_out)
    left, values, right = one.svd
    np.testing.assert_allclose((left * values) @ right.T, dense(one), atol=1e-5)
    np.testing.assert_allclose(values, np.linalg.svd(dense(one), compute_uv=False), atol=1e-5)
    assert one.output_share(np.eye(d_out)) == pytest.approx(1)
    assert one.input_share(np.eye(d_in)) == pytest.approx(1)


def test_inner_products_in_parts_are_the_same(monkeypatch):
    from emscope.residual.adapters import lowrank

    chooser = np.random.default_rng(0)

    def part(*shape):
        return chooser.normal(size=shape).astype(np.float32)

    updates = [None if n % 4 == 2 else LowRank(part(1 + n % 3, 7), part(5, 1 + n % 3), 0.5) for n in range(11)]
    whole = lowrank.inner_products(updates)
    for most in (1, 60, 130):
        monkeypatch.setattr(lowrank, "MOST_PRODUCTS", most)
        np.testing.assert_allclose(lowrank.inner_products(updates), whole, rtol=1e-5, atol=1e-6)
