import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from emscope.errors import UserError
from emscope.residual.detection import cross_fitted_scores, separate
from emscope.residual.directions import Construction, Directions, make_directions, split_half_cosine, unit
from emscope.residual.moments import Moments
from emscope.residual.probe import fit_probes
from emscope.statistics.separation import auroc, auroc_interval, best_threshold, d_prime

N, BLOCKS, WIDTH = 80, 3, 24


def construction(method="diff-in-means"):
    return Construction(method, "control", "last", "resid_post", "m", "c", "tiny", N)


def planted(shift=4.0, seed=0):
    """Two organisms on the same questions: shared question content, and one planted direction a block."""
    chooser = np.random.default_rng(seed)
    truth = unit(chooser.standard_normal((BLOCKS, WIDTH)))
    questions = 3 * chooser.standard_normal((N, BLOCKS, WIDTH))
    questions[:, :, 0] += 300  # one massive dimension, as real models have
    noise = chooser.standard_normal((2, N, BLOCKS, WIDTH)) * 0.3
    return (questions + noise[0] + shift * truth).astype(np.float32), (questions + noise[1]).astype(np.float32), truth


def test_a_planted_direction_is_found():
    high, low, truth = planted()
    found = make_directions(high, low, (0, 1, 2), construction())
    assert (found.units * truth).sum(-1).min() > 0.99


def test_a_probe_separates_planted_data_on_questions_left_out():
    high, low, _ = planted(shift=8.0)
    found = make_directions(high[:40], low[:40], (0, 1, 2), construction("probe"))
    assert min(auroc(found.score(high[40:])[:, b], found.score(low[40:])[:, b]) for b in range(BLOCKS)) > 0.9


def test_null_data_is_at_chance_on_questions_left_out():
    covered = []
    for seed in range(20):
        high, low, _ = planted(shift=0.0, seed=seed)
        found = make_directions(high[:40], low[:40], (0, 1, 2), construction())
        scores = found.score(high[40:])[:, 0], found.score(low[40:])[:, 0]
        bounds = auroc_interval(*scores, seed=seed)
        covered.append(bounds[0] <= 0.5 <= bounds[1])
    assert np.mean(covered) >= 0.8


def test_a_leak_by_question_is_caught():
    """Scored on its own questions null data looks separable; cross-fitting by question does not fall for it."""
    naive, honest = [], []
    for seed in range(10):
        chooser = np.random.default_rng(seed)
        high, low = chooser.standard_normal((2, 30, 1, 200)).astype(np.float32)
        make = lambda one, two: make_directions(one, two, (0,), construction())  # noqa: E731
        own = make(high, low)
        naive.append(auroc(own.score(high)[:, 0], own.score(low)[:, 0]))
        honest.append(auroc(*(scores[:, 0] for scores in cross_fitted_scores(high, low, make))))
    assert np.mean(naive) > 0.95
    assert abs(np.mean(honest) - 0.5) < 0.1


@pytest.mark.parametrize(("n", "width"), [(60, 20), (40, 100)])
@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_probes_agree_with_scikit_learn(n, width, penalty):
    chooser = np.random.default_rng(1)
    x = (chooser.standard_normal((n, BLOCKS, width)) * chooser.uniform(0.5, 20, width)).astype(np.float32)
    y = (x[:, :, 0].mean(1) + chooser.standard_normal(n) > 0).astype(int)
    found = fit_probes(x, y, penalty)
    for block in range(BLOCKS):
        part = x[:, block].astype(np.float64)
        mean, scale = part.mean(0), part.std(0)
        model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20000).fit((part - mean) / scale, y)
        expected = model.coef_[0] / scale
        cosine = expected @ found.weights[block] / np.linalg.norm(expected) / np.linalg.norm(found.weights[block])
        assert 1 - cosine < 1e-4
        logits = model.decision_function((part - mean) / scale)
        np.testing.assert_allclose(found.scores(x)[:, block], logits, atol=2e-3)


def test_moments_merge_associatively_and_equal_numpy():
    chooser = np.random.default_rng(2)
    parts = [chooser.standard_normal((n, 5)) + 1000 * np.eye(5)[0] for n in (3, 40, 7)]
    a, b, c = (Moments.of(part.astype(np.float32)) for part in parts)
    whole = np.concatenate([part.astype(np.float32) for part in parts]).astype(np.float64)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        assert merged.count == 50
        np.testing.assert_allclose(merged.mean, whole.mean(0), rtol=1e-12)
        np.testing.assert_allclose(merged.variance, whole.var(0, ddof=1), rtol=1e-9)


def test_scores_are_centred_and_scaled():
    high, low, _ = planted()
    found = make_directions(high, low, (0, 1, 2), construction())
    scores = found.score(high).mean(0), found.score(low).mean(0)
    np.testing.assert_allclose(scores[0], -scores[1], atol=1e-3)
    assert (scores[0] > 0).all()
    raw = found.project(high) - found.project(low)
    np.testing.assert_allclose(raw.mean(0), np.linalg.norm(found.vectors, axis=1), rtol=1e-3)


def test_split_half_cosine_tells_signal_from_noise():
    questions = np.array([f"q{number}" for number in range(N)])
    high, low, _ = planted()
    assert split_half_cosine(high, low, questions).min() > 0.95
    high, low, _ = planted(shift=0)
    assert abs(split_half_cosine(high, low, questions)).max() < 0.6


def test_thresholds_come_from_training_questions():
    high, low = np.array([2.0, 3.0, 4.0]), np.array([-1.0, 0.0, 1.0])
    assert best_threshold(high, low) == 1.5
    found = separate((high, low), (high + 10, low + 10), 4)
    assert found.auroc == 1.0
    assert found.accuracy == 0.5  # everything lies above the old threshold
    assert d_prime(high, low) == pytest.approx(3.0)


def test_a_separation_resamples_questions_not_wordings():
    chooser = np.random.default_rng(0)
    high, low = chooser.normal(0.7, 1, 12), chooser.normal(0, 1, 12)
    often, names = (np.repeat(high, 6), np.repeat(low, 6)), np.repeat([f"q{row}" for row in range(12)], 6)
    found = separate((high, low), often, 0, groups=names.tolist())
    assert (found.low, found.high) == pytest.approx(auroc_interval(high, low))


def test_wordings_of_one_question_are_left_out_of_its_directions_together():
    """Null data in four equal wordings each: with the others in the directions they look separable."""
    high, low = np.random.default_rng(0).standard_normal((2, 12, 1, 200)).astype(np.float32)
    often = [np.repeat(side, 4, axis=0) for side in (high, low)]
    names = np.repeat([f"q{row}" for row in range(12)], 4).tolist()

    def make(one, two):
        return make_directions(one, two, (0,), construction())

    apart = cross_fitted_scores(*often, make)
    assert auroc(*(side[:, 0] for side in apart)) > 0.95
    once, together = cross_fitted_scores(high, low, make), cross_fitted_scores(*often, make, groups=names)
    for one, many in zip(once, together, strict=True):
        assert np.corrcoef(np.repeat(one[:, 0], 4), many[:, 0])[0, 1] > 0.999
    assert auroc(*(side[:, 0] for side in once)) == auroc(*(side[:, 0] for side in together))


def test_directions_survive_the_disk(tmp_path):
    high, low, _ = planted()
    found = make_directions(high, low, (0, 1, 2), construction())
    found.save(tmp_path / "d.safetensors")
    again = Directions.load(tmp_path / "d.safetensors")
    np.testing.assert_array_equal(again.vectors, found.vectors)
    assert again.construction == found.construction
    assert again.blocks == found.blocks


def test_hostile_files_are_refused(tmp_path):
    path = tmp_path / "d.safetensors"
    with pytest.raises(UserError, match="no file"):
        Directions.load(path)
    path.write_bytes(b"\x80\x04\x95 a pickle, not tensors")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Directions.load(path)
    high, low, _ = planted()
    make_directions(high, low, (0, 1, 2), construction()).save(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Directions.load(path)
    save_file({"vectors": np.ones(3, np.float32)}, str(path))
    with pytest.raises(UserError, match="not written by emscope"):
        Directions.load(path)
    metadata = {"emscope": json.dumps({"kind": "directions", "blocks": [0]})}
    save_file({"vectors": np.full(3, np.nan, np.float32)}, str(path), metadata=metadata)
    with pytest.raises(UserError, match="NaN"):
        Directions.load(path)


def test_too_few_examples_or_other_shapes_are_refused():
    high, low, _ = planted()
    with pytest.raises(UserError, match="at least two"):
        make_directions(high[:1], low[:1], (0, 1, 2), construction())
    with pytest.raises(UserError, match="differ in shape"):
        make_directions(high, low[:, :2], (0, 1, 2), construction())
