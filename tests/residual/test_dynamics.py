import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emscope.errors import UserError
from emscope.residual.dynamics import AdapterPaths, MatrixPath, read_paths

CHOOSER = np.random.default_rng(0)


def path_of(points):
    flat = np.asarray(points, dtype=float).reshape(len(points), -1)
    return MatrixPath(flat @ flat.T)


def cosine(one, two):
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def test_figures_from_inner_products_equal_those_from_the_matrices():
    points = CHOOSER.normal(size=(9, 20))
    path = path_of(points)
    np.testing.assert_allclose(path.norms, np.linalg.norm(points, axis=1))
    np.testing.assert_allclose(path.cosine_to_final, [cosine(point, points[-1]) for point in points])
    np.testing.assert_allclose(path.cosine_to_previous[1:], [cosine(*points[n : n + 2]) for n in range(8)])
    np.testing.assert_allclose(path.step_lengths[1:], np.linalg.norm(np.diff(points, axis=0), axis=1))
    for k in (1, 2, 4):
        found = path.local_cosine(k)
        naive = [cosine(points[t - k] - points[t], points[t + k] - points[t]) for t in range(k, 9 - k)]
        np.testing.assert_allclose(found[k : 9 - k], naive)
        assert np.isnan(found[:k]).all()
        assert np.isnan(found[9 - k :]).all()


def test_a_straight_path_is_minus_one_and_a_right_angled_turn_zero():
    straight = np.outer(np.arange(11.0), [1, 2, 3])
    np.testing.assert_allclose(path_of(straight).local_cosine(2)[2:-2], -1, atol=1e-9)
    turn = np.array([[min(t, 5), max(t - 5, 0)] for t in range(11)], dtype=float)
    found = path_of(turn).local_cosine(3)
    assert np.nanargmax(found) == 5
    assert found[5] == pytest.approx(0)


def test_short_legs_are_left_out():
    points = np.concatenate([np.zeros((3, 2)), np.outer(np.arange(1.0, 6), [1, 1])]) + 1e-6 * CHOOSER.normal(
        size=(8, 2)
    )
    path = path_of(points)
    assert np.isfinite(path.local_cosine(1)[1:-1]).all()
    assert np.isnan(path.local_cosine(1, shortest=0.1)[1])


def test_principal_components_are_those_of_numpy():
    points = CHOOSER.normal(size=(7, 30)) @ np.diag(np.geomspace(10, 0.1, 30))
    coordinates, shares = path_of(points).principal_components(2)
    left, singular, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(left[:, :2] * singular[:2]), atol=1e-8)
    np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2])


def test_shuffled_moves_keep_the_ends_and_lose_the_turn():
    turn = np.array([[min(t, 10), max(t - 10, 0)] for t in range(21)], dtype=float)
    path, other = path_of(turn), path_of(turn).shuffled(0)
    assert other.norms[0] == pytest.approx(path.norms[0])
    assert other.norms[-1] == pytest.approx(path.norms[-1])
    np.testing.assert_allclose(np.sort(other.step_lengths[1:]), np.sort(path.step_lengths[1:]), atol=1e-6)
    assert np.nanmean(other.local_cosine(1)) > np.nanmean(path.local_cosine(1))


@pytest.fixture
def checkpoints(tmp_path):
    """Three checkpoints of two modules, and the same updates under another split: BR and R⁻¹A."""
    made = {"plain": [], "turned": []}
    torch.manual_seed(0)
    turn = torch.randn(2, 2) + 2 * torch.eye(2)
    for step in (4, 8, 12):
        weights, turned = {}, {}
        for module in ("base_model.model.model.layers.0.q_proj", "base_model.model.model.layers.1.down_proj"):
            a, b = torch.randn(2, 6), torch.randn(5, 2)
            weights |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            turned |= {
                f"{module}.lora_A.weight": torch.linalg.solve(turn, a).contiguous(),
                f"{module}.lora_B.weight": (b @ turn).contiguous(),
            }
        for name, tensors in (("plain", weights), ("turned", turned)):
            folder = tmp_path / name / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            save_file(tensors, folder / "adapter_model.safetensors")
            made[name].append(folder)
    return made


def test_paths_are_read_from_adapter_folders(checkpoints, tmp_path):
    paths = read_paths(checkpoints["plain"], [4, 8, 12])
    assert paths.steps == (0, 4, 8, 12)
    assert paths.modules == ("model.layers.0.q_proj", "model.layers.1.down_proj")
    assert paths.whole("B").norms[0] == 0
    from safetensors.torch import load_file

    whole = load_file(checkpoints["plain"][2] / "adapter_model.safetensors")
    updates = [
        whole[f"base_model.model.{name}.lora_B.weight"] @ whole[f"base_model.model.{name}.lora_A.weight"]
        for name in paths.modules
    ]
    for path, update in zip(paths.of("BA"), updates, strict=True):
        assert path.norms[-1] == pytest.approx(float(update.norm()), rel=1e-5)
    paths.save(tmp_path / "paths.safetensors")
    again = AdapterPaths.load(tmp_path / "paths.safetensors")
    assert (again.modules, again.steps) == (paths.modules, paths.steps)
    np.testing.assert_array_equal(again.grams["B"], paths.grams["B"])


def test_the_update_does_not_depend_on_how_it_is_split(checkpoints):
    plain, turned = (read_paths(checkpoints[name], [4, 8, 12]) for name in ("plain", "turned"))
    np.testing.assert_allclose(plain.grams["BA"], turned.grams["BA"], rtol=1e-4, atol=1e-4)
    assert not np.allclose(plain.grams["B"], turned.grams["B"], rtol=1e-2)


@pytest.mark.parametrize("move", [1e-2, 1e-3, 1e-4])
def test_moves_that_are_small_beside_the_matrix_keep_their_digits(tmp_path, move):
    chooser, folders, points = np.random.default_rng(0), [], []
    a, b = chooser.standard_normal((2, 40)), chooser.standard_normal((30, 2))
    for step in range(5):
        a = (a + move * chooser.standard_normal(a.shape)).astype(np.float32)
        folders.append(tmp_path / f"checkpoint-{step}")
        folders[-1].mkdir()
        tensors = {"m.lora_A.weight": torch.from_numpy(a), "m.lora_B.weight": torch.from_numpy(b).float()}
        save_file(tensors, folders[-1] / "adapter_model.safetensors")
        points.append(a.astype(np.float64))
    found = read_paths(folders, range(1, 6)).of("A")[0]
    naive = path_of([points[0], *points])
    np.testing.assert_allclose(found.step_lengths[2:], naive.step_lengths[2:], rtol=1e-4)
    legs = [(points[t - 1] - points[t], points[t + 1] - points[t]) for t in range(1, 4)]
    cosines_of = [cosine(one.ravel(), two.ravel()) for one, two in legs]
    np.testing.assert_allclose(found.local_cosine(1)[2:-1], cosines_of, atol=1e-4)


def test_no_cosine_is_beyond_one():
    path = MatrixPath(np.full((5, 5), 3.0) + 1e-13 * CHOOSER.normal(size=(5, 5)))
    for found in (path.local_cosine(1), path.cosine_to_final, path.cosine_to_previous):
        assert not (np.abs(found) > 1).any()


def test_paths_that_are_none_are_refused(checkpoints):
    with pytest.raises(UserError, match="at least two checkpoints"):
        read_paths(checkpoints["plain"][:1], [4])
    (checkpoints["plain"][1] / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_paths(checkpoints["plain"], [4, 8, 12])
