import numpy as np
import pytest

from emscope.errors import UserError
from emscope.residual.directions import Construction, make_directions, unit
from emscope.residual.geometry import (
    component_share,
    cosines,
    estimate_cosines,
    principal_angles,
    random_angles,
    shared_directions,
    shared_vectors,
)

BLOCKS, WIDTH = 3, 40


def orthonormal(k, seed=0, blocks=BLOCKS, width=WIDTH):
    chooser = np.random.default_rng(seed)
    return np.linalg.qr(chooser.standard_normal((blocks, width, k)))[0].transpose(0, 2, 1)


def turned(angles, seed=0):
    """Two subspaces a block whose principal angles are planted, each spanned by a mixture of its own basis."""
    k, chooser = len(angles), np.random.default_rng(seed)
    basis = orthonormal(2 * k, seed)
    first, away = basis[:, :k], basis[:, k:]
    second = np.cos(angles)[None, :, None] * first + np.sin(angles)[None, :, None] * away
    mix = chooser.standard_normal((2, BLOCKS, k, k)) + 2 * np.eye(k)
    return mix[0] @ first, mix[1] @ second


@pytest.mark.parametrize("angles", [[0.7], [0.0, 0.3, 1.2], [1e-7, 0.4], [np.pi / 2, np.pi / 2]])
def test_planted_principal_angles_are_found(angles):
    found = principal_angles(*turned(angles))
    np.testing.assert_allclose(found, np.broadcast_to(sorted(angles), found.shape), atol=1e-9)


def test_small_angles_keep_their_digits():
    np.testing.assert_allclose(principal_angles(*turned([1e-9, 0.5]))[:, 0], 1e-9, rtol=1e-3)


def test_angles_agree_with_scipy_and_do_not_depend_on_the_order_or_the_length_of_vectors():
    from scipy.linalg import subspace_angles

    chooser = np.random.default_rng(1)
    first, second = chooser.standard_normal((BLOCKS, 2, WIDTH)), chooser.standard_normal((BLOCKS, 4, WIDTH))
    found = principal_angles(first, second)
    for block in range(BLOCKS):
        np.testing.assert_allclose(found[block], subspace_angles(first[block].T, second[block].T)[::-1], atol=1e-10)
    np.testing.assert_allclose(principal_angles(second[:, ::-1] * 1000, first), found, atol=1e-10)


def test_a_line_inside_a_plane_has_angle_0_and_one_vector_each_is_the_arc_cosine():
    plane = orthonormal(2)
    assert principal_angles(plane, plane.sum(axis=1, keepdims=True)).max() < 1e-9
    one, two = np.random.default_rng(2).standard_normal((2, BLOCKS, 1, WIDTH))
    cosine = np.abs((unit(one) * unit(two)).sum(-1))
    np.testing.assert_allclose(principal_angles(one, two), np.arccos(cosine), atol=1e-9)


def test_copies_do_not_span_a_subspace():
    line = orthonormal(1)
    with pytest.raises(UserError, match="depend on each other"):
        principal_angles(np.concatenate([line, 2 * line], axis=1), line)


def test_random_subspaces_are_nearly_orthogonal_in_many_dimensions():
    wide, narrow = random_angles(1000, 2, 2), random_angles(10, 2, 2)
    assert (np.diff(wide) > 0).all()
    assert wide[0] > 1.45 > narrow[0]


def planted(common, n=4, seed=0):
    """Directions with a planted common part: `common` of their squared length lies along one vector a block."""
    basis = orthonormal(n + 1, seed)
    return basis[:, 0], np.sqrt(common) * basis[:, 0] + np.sqrt(1 - common) * basis[:, 1:].transpose(1, 0, 2)


@pytest.mark.parametrize("how", ["mean", "component"])
def test_the_shared_direction_finds_the_planted_common_part(how):
    truth, parts = planted(0.7)
    found = shared_vectors(parts * np.array([1, 5, 2, 4])[:, None, None], how)
    assert (unit(found) * truth).sum(-1).min() > 0.94
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 3)
    assert (unit(found)[None] * parts).sum(-1).min() > 0.8  # nearer to each of them than they are to each other
    np.testing.assert_allclose(cosines(parts)[0, 1], 0.7, atol=1e-9)


def test_component_share_runs_from_1_to_1_over_n():
    same, apart = planted(1.0)[1], planted(0.0)[1]
    np.testing.assert_allclose(component_share(same), 1)
    np.testing.assert_allclose(component_share(apart), 1 / 4)
    np.testing.assert_allclose(component_share(planted(0.7)[1]), 0.7 + 0.3 / 4)


def questions_of(truth, n, noise, seed):
    chooser = np.random.default_rng(seed)
    return truth[None] + noise * chooser.standard_normal((n, *truth.shape))


def test_intervals_of_cosines_cover_the_truth_and_hold_the_estimate():
    _, truth = planted(0.6, n=2)
    covered = []
    for seed in range(12):
        data = np.stack([questions_of(item, 300, 0.3, 10 * seed + row) for row, item in enumerate(truth)])
        found = estimate_cosines(data, [f"q{row}" for row in range(300)], seed, resamples=300)
        np.testing.assert_allclose(found.value[:, :, :-1], cosines(data.mean(axis=1)), atol=1e-9)
        np.testing.assert_allclose(found.value[:, :, -1], found.value[:, :, :-1].mean(-1))
        assert (found.low[0, 1] < found.high[0, 1]).all()
        covered.append(found.low[0, 1, 0] <= 0.6 <= found.high[0, 1, 0])
    assert np.mean(covered) >= 0.8
    assert (found.low[0, 0] == 1).all()


def test_cosines_resample_groups_not_rows():
    """Rows of a group are copies: twice the rows say no more."""
    _, truth = planted(0.6, n=2)
    data = np.stack([questions_of(item, 60, 0.5, row) for row, item in enumerate(truth)])
    names = [f"q{row}" for row in range(60)]
    once, twice = estimate_cosines(data, names), estimate_cosines(np.concatenate([data, data], 1), names * 2)
    np.testing.assert_allclose(once.low, twice.low)
    apart = estimate_cosines(np.concatenate([data, data], 1), [*names, *(f"{name}b" for name in names)])
    assert ((apart.high - apart.low)[0, 1] < (twice.high - twice.low)[0, 1]).all()


def parts_for(pooling="last", n=3):
    truth, parts = planted(0.8, n=n)
    made = []
    for number, vectors in enumerate(parts):
        low = np.random.default_rng(number).standard_normal((50, BLOCKS, WIDTH))
        names = Construction("diff-in-means", "control", pooling, "resid_post", f"m{number}", f"c{number}", "tiny", 50)
        made.append(make_directions(low + 3 * vectors, low, (0, 1, 2), names))
    return truth, made


def test_shared_directions_separate_an_organism_left_out_and_say_how_they_were_made():
    from emscope.statistics.separation import auroc

    _, parts = parts_for()
    shared = shared_directions(parts[:2], "component")
    assert shared.construction.method == "shared-component"
    assert shared.construction.positive == "m0+m1"
    low = np.random.default_rng(9).standard_normal((200, BLOCKS, WIDTH))
    scores = shared.score(low + parts[2].vectors), shared.score(low)
    assert min(auroc(scores[0][:, block], scores[1][:, block]) for block in range(BLOCKS)) > 0.9
    middle = np.mean([(part.positive_mean + part.negative_mean) / 2 for part in parts[:2]], axis=0)
    np.testing.assert_allclose(shared.midpoints, (middle * shared.units).sum(-1), rtol=1e-5)


def test_directions_of_other_kinds_are_not_shared():
    with pytest.raises(UserError, match="same blocks, pooling"):
        shared_directions([parts_for()[1][0], parts_for("response")[1][0]])
    with pytest.raises(UserError, match="at least one"):
        shared_directions([])


def test_one_question_has_cosines_without_an_interval():
    differences = np.random.default_rng(0).standard_normal((2, 1, BLOCKS, WIDTH))
    found = estimate_cosines(differences, ["q"])
    np.testing.assert_allclose(found.value[0, 1, :BLOCKS], cosines(differences[:, 0])[0, 1])
    assert np.isnan([found.low[0, 1], found.high[0, 1]]).all()
    np.testing.assert_array_equal(found.low[0, 0], 1)
