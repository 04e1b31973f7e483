"""Many probes at once are the probes that scikit-learn fits one by one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from emscope.residual import logistic, probe
from emscope.residual.probe import choose_penalties, fit_many, fit_probes

BLOCKS = 3


def examples(n=120, width=24, shift=1.0, seed=0):
    """Two answers a question, correlated dimensions, one massive dimension."""
    chooser = np.random.default_rng(seed)
    questions = np.repeat(np.arange(n // 2), 2)
    labels = np.tile([1, 0], n // 2)
    content = chooser.standard_normal((n // 2, BLOCKS, width)) * np.arange(1, width + 1) ** -0.7 * 5
    x = content[questions] + 0.5 * chooser.standard_normal((n, BLOCKS, width))
    x[:, :, 1] += 300
    x += labels[:, None, None] * shift * chooser.standard_normal((BLOCKS, width)) / np.sqrt(width)
    return x.astype(np.float32), labels, questions


def scikit(x, labels, weights, penalty):
    """Return one direction and the log-odds, standardised with the examples of all fits."""
    whole = x.astype(np.float64)
    mean, scale = whole.mean(0), whole.std(0)
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=100_000, solver="newton-cholesky")
    model.fit(((whole - mean) / scale)[weights > 0], labels[weights > 0], sample_weight=weights[weights > 0])
    return model.coef_[0] / scale, model.decision_function((whole - mean) / scale)


def cosine(one, two):
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


@pytest.mark.parametrize(("n", "width"), [(120, 24), (60, 100)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 6.0])
def test_every_fold_penalty_and_weighting_agrees_with_scikit_learn(n, width, shift):
    x, labels, questions = examples(n, width, shift)
    chooser = np.random.default_rng(3)
    weights = np.stack([(questions % 5 != fold) * chooser.uniform(0.5, 2, n) for fold in (0, 1, 2, 3)])
    penalties = np.array([1.0, 10.0, 100.0, 1000.0])
    given = np.tile(labels, (4, 1))
    given[3] = chooser.permutation(labels)  # a fit may have labels of its own
    found = fit_many(x, given, weights, penalties)
    for fit in range(4):
        for block in range(BLOCKS):
            expected, logits = scikit(x[:, block], given[fit], weights[fit], penalties[fit])
            assert cosine(expected, found.weights[fit, block]) > 0.9999
            np.testing.assert_allclose(found.logits[fit, :, block], logits, atol=0.02 * np.abs(logits).max())
            np.testing.assert_allclose(
                found.of(fit).scores(x)[:, block], found.logits[fit, :, block], atol=2e-3 * np.abs(logits).max()
            )


def test_company_changes_nothing(monkeypatch):
    """A fit is the same alone and among others, and a block alone or with others, whichever of them ends first."""
    x, labels, _ = examples()
    penalties = np.logspace(-1, 4, 12)
    everything = np.ones((12, len(labels)))
    exact = {"tolerance": 1e-8, "dtype": torch.float64}
    together = fit_many(x, np.tile(labels, (12, 1)), everything, penalties, **exact)
    monkeypatch.setattr(probe, "CHUNK", 1)
    apart = fit_many(x, np.tile(labels, (12, 1)), everything, penalties, **exact)
    np.testing.assert_allclose(apart.weights, together.weights, rtol=1e-4, atol=1e-6)
    for fit in (0, 5, 11):
        np.testing.assert_allclose(
            fit_probes(x, labels, penalties[fit]).weights, together.weights[fit], rtol=1e-4, atol=1e-6
        )


def test_each_block_may_have_its_own_penalty():
    x, labels, _ = examples()
    own = np.array([[1.0], [30.0], [900.0]])
    found = fit_many(x, labels[None], np.ones((1, len(labels))), own, tolerance=1e-7, dtype=torch.float64)
    for block, (penalty,) in enumerate(own):
        expected = fit_probes(x[:, [block]], labels, penalty).weights[0]
        np.testing.assert_allclose(found.weights[0, block], expected, rtol=1e-4, atol=1e-6)


def test_penalties_are_chosen_on_questions_left_out():
    x, labels, questions = examples(width=100, shift=2.0)
    chosen = choose_penalties(x, labels, np.ones(len(labels)), questions % 5, (0.1, 10.0, 1e3, 1e5))
    for block in range(BLOCKS):
        losses = []
        for penalty in (0.1, 10.0, 1e3, 1e5):
            loss = np.zeros(len(labels))
            for fold in range(5):
                _, logits = scikit(x[:, block], labels, (questions % 5 != fold).astype(float), penalty)
                out = questions % 5 == fold
                loss[out] = np.logaddexp(0, -(2 * labels[out] - 1) * logits[out])
            losses.append(loss.mean())
        np.testing.assert_allclose(chosen.losses[:, block], losses, rtol=0.01)
        assert chosen.penalties[block] == (0.1, 10.0, 1e3, 1e5)[int(np.argmin(losses))]


def test_labels_that_mean_nothing_are_not_found_on_questions_left_out():
    right = []
    for seed in range(8):
        x, labels, questions = examples(width=100, shift=0.0, seed=seed)
        logits = choose_penalties(x, labels, np.ones(len(labels)), questions % 5, (10.0, 1000.0)).logits
        right.append(((logits > 0) == labels[:, None]).mean())
    assert abs(np.mean(right) - 0.5) < 0.06


@pytest.mark.parametrize(("n", "width"), [(120, 24), (60, 100)])
def test_labels_that_contradict_each_other_give_no_weights(n, width):
    """Both sides have the same vectors: whatever a rounding error suggests, there is nothing to learn, and no NaN."""
    half, _, _ = examples(n, width)
    x, labels = np.concatenate([half, half]), np.repeat([1, 0], n)
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        descent = logistic._descent
        patch.setattr(logistic, "_descent", lambda *given: counts.append(1) or descent(*given))
        found = fit_many(x, np.tile(labels, (3, 1)), np.ones((3, 2 * n)), np.array([1.0, 100.0, 10_000.0]))
    assert np.abs(found.logits).max() < 1e-2
    assert len(counts) < 20
