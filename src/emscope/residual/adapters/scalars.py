"""LoRA scalars: what a module's update reads at each token, and how much they say about the answer.

For a rank-1 adapter it is A·x (Soligo et al. 2506.11618); for a higher rank we take the strongest component,
σ₁ v₁·x, which does not depend on how BA is split into factors. Probes are grouped by question, and the same scalars of
the prompt alone stand beside them: what a question gives away is no property of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.errors import UserError
from emscope.residual.adapters.inputs import TokenScalars
from emscope.residual.adapters.lowrank import LowRank
from emscope.statistics import Estimate, bootstrap_questions
from emscope.statistics.folds import shuffled_folds
from emscope.statistics.separation import auroc

COST = 0.01
"""C of scikit-learn's LogisticRegression, as in the paper: few scalars keep a weight."""


def readers(updates: Mapping[str, LowRank]) -> dict[str, np.ndarray]:
    """Return σ₁ v₁ of each update, float64 [d_in]; its sign makes the largest entry of u₁ positive."""
    vectors = {}
    for module, update in updates.items():
        left, values, right = update.svd
        sign = np.sign(left[np.abs(left[:, 0]).argmax(), 0])
        vectors[module] = sign * values[0] * right[:, 0]
    return vectors


@dataclass(frozen=True)
class ScalarProbe:
    """How well scalars tell one kind of answer from the other on questions left out.

    Attributes:
        token: balanced accuracy over tokens, every answer counting alike.
        answer: the same over answers, each by the mean score of its tokens.
        prompt: the same over answers, by the scalars of their prompts alone.
        auroc: area under the ROC curve over answers.
        used: share of the scalars with a weight, averaged over folds.
    """

    token: Estimate
    answer: Estimate
    prompt: Estimate
    auroc: float
    used: float


def probe_scalars(
    scalars: TokenScalars,
    labels: np.ndarray,
    questions: Sequence[str],
    folds: int = 5,
    cost: float = COST,
    seed: int = 0,
) -> ScalarProbe:
    """Fit L1 probes on the tokens of all but one fold of questions and score the rest; labels [n_answers] 0/1.

    Raises:
        UserError: answers to a single question, or to too few for both kinds of answer outside every fold.
    """
    fold = shuffled_folds(questions, folds, seed)
    shares, means, prompts = np.full((3, len(labels)), np.nan)
    used = []
    for number in np.unique(fold):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(np.unique(labels[inside])) < 2:
            raise UserError("Scalars are probed on questions left out, and both kinds of answer come from too few.")

        answers = [scalars.answers[row] for row in inside]
        total = sum(map(len, answers))
        weights, intercept = _fit_tokens(answers, labels[inside], total, cost)
        used.append(float((weights != 0).mean()))
        for row in outside:
            scores = scalars.answers[row] @ weights + intercept
            shares[row], means[row] = ((scores > 0) == labels[row]).mean(), scores.mean()

        weights, intercept = _fit_tokens(list(scalars.prompts[inside][:, None]), labels[inside], total, cost)
        prompts[outside] = scalars.prompts[outside] @ weights + intercept
    return ScalarProbe(
        _balanced(shares, labels, questions, seed),
        _balanced((means > 0) == labels, labels, questions, seed),
        _balanced((prompts > 0) == labels, labels, questions, seed),
        auroc(means[labels > 0], means[labels == 0]),
        float(np.mean(used)),
    )


def _fit_tokens(answers: list[np.ndarray], labels: np.ndarray, total: float, cost: float) -> tuple[np.ndarray, float]:
    """Fit on all rows, standardised; answers weigh alike, both kinds of answer do, and all weights sum to `total`."""
    x = np.concatenate(answers).astype(np.float64)
    sizes = np.array(list(map(len, answers)))
    y = np.repeat(labels, sizes)
    share = np.where(labels > 0, 1 / max(labels.sum(), 1), 1 / max((labels == 0).sum(), 1)) / sizes
    weights = np.repeat(share, sizes) * total / 2
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    slopes, intercept = l1_logistic((x - mean) / scale, y, weights, cost)
    return slopes / scale, float(intercept - (slopes / scale) @ mean)


def l1_logistic(
    x: np.ndarray, labels: np.ndarray, weights: np.ndarray, cost: float, steps: int = 2000, tolerance: float = 1e-6
) -> tuple[np.ndarray, float]:
    """Minimise ‖w‖₁ + cost Σ weightᵢ log(1 + exp(−yᵢ(w·xᵢ + b))) with a free intercept, by accelerated proximal steps.

    x [n, d], labels [n] 0/1 (FISTA with restarts: Beck & Teboulle 2009, O'Donoghue & Candès 2015). Returns w, b.
    """
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    signs = np.where(labels > 0, 1.0, -1.0)
    curvature = design.T @ (design * weights[:, None])
    size = 4 / (cost * np.linalg.eigvalsh(curvature)[-1])
    shrink = np.append(np.full(x.shape[1], size), 0.0)
    theta = ahead = np.zeros(design.shape[1])
    momentum = 1.0
    for _ in range(steps):
        wrong = weights * signs / (1 + np.exp(np.clip(signs * (design @ ahead), -50, 50)))
        moved = ahead + size * cost * (design.T @ wrong)
        new = np.sign(moved) * np.maximum(np.abs(moved) - shrink, 0)
        if (ahead - new) @ (new - theta) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - theta)
        change, theta, momentum = np.abs(new - theta).max(), new, following
        if change < tolerance:
            break
    return theta[:-1], float(theta[-1])


def _balanced(right: np.ndarray, labels: np.ndarray, questions: Sequence[str], seed: int) -> Estimate:
    """Return the mean over both kinds of answers of how right they are told, with its question-bootstrap interval."""
    values, misaligned = right.astype(float), labels > 0

    def share(weights: np.ndarray, side: np.ndarray) -> np.ndarray:
        return np.asarray((weights[:, side] @ values[side]) / weights[:, side].sum(axis=1))

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray((share(weights, misaligned) + share(weights, ~misaligned)) / 2)

    low, high = bootstrap_questions(questions, statistic, seed)
    return Estimate(float(statistic(np.ones((1, len(values))))[0]), low, high, len(values))
