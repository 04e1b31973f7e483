"""How well scores tell two organisms apart on questions never used to make the direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.errors import UserError
from emscope.residual.contrasts import question_folds
from emscope.residual.directions import Directions


@dataclass(frozen=True)
class Separation:
    """Scores of two organisms on the same held-out questions, at one block.

    `auroc` is the chance that a random question scores higher on the first organism than another one on the second;
    `low`, `high` bound it at 95 % when questions are resampled. `accuracy` has its threshold from training questions.
    """

    auroc: float
    low: float
    high: float
    d_prime: float
    separation: float
    accuracy: float
    block: int


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve (Mann-Whitney; ties count one half)."""
    return float(_wins(positive, negative).mean())


def _wins(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    more, same = positive[:, None] > negative[None, :], positive[:, None] == negative[None, :]
    return np.asarray(more + 0.5 * same)


def auroc_interval(
    positive: np.ndarray,
    negative: np.ndarray,
    seed: int = 0,
    resamples: int = 2000,
    groups: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Return the 95 % interval of the AUROC when questions are resampled; row i of both sides is question i.

    `groups` names what is drawn together (`Question.group`); by default each question is drawn alone.
    """
    codes = _codes(len(positive), groups)
    n = int(codes.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    weights = drawn[:, codes]
    won = np.einsum("ri,ij,rj->r", weights, _wins(positive, negative), weights, optimize=True)
    values = won / weights.sum(axis=1) ** 2
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _codes(n: int, groups: Sequence[str] | None) -> np.ndarray:
    """Return the number of each row's group, in the order they come, int [n]."""
    names = range(n) if groups is None else groups
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def d_prime(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the distance of the means in units of the pooled standard deviation."""
    spread = np.sqrt((positive.var(ddof=1) + negative.var(ddof=1)) / 2)
    return float((positive.mean() - negative.mean()) / max(spread, 1e-12))


def best_threshold(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the threshold with the highest balanced accuracy; the middle of the widest such gap."""
    values = np.unique(np.concatenate([positive, negative]))
    if len(values) < 2:
        return float(values[0])
    cuts = (values[1:] + values[:-1]) / 2
    balanced = [((positive > cut).mean() + (negative <= cut).mean()) / 2 for cut in cuts]
    best = np.flatnonzero(np.isclose(balanced, max(balanced)))
    widths = (values[1:] - values[:-1])[best]
    return float(cuts[best[int(widths.argmax())]])


def cross_fitted_scores(
    positive: np.ndarray,
    negative: np.ndarray,
    make: Callable[[np.ndarray, np.ndarray], Directions],
    folds: int = 5,
    groups: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [n_questions, n_blocks] of both sides, each question scored by directions made without it.

    Row i of both sides is question i; `make` turns activations of the other questions into directions. A question's
    group (`Question.group`) is left out with it.
    """
    out = np.zeros(positive.shape[:2]), np.zeros(negative.shape[:2])
    fold = question_folds(_codes(len(positive), groups), folds)
    for number in np.unique(fold):
        inside = fold == number
        directions = make(positive[~inside], negative[~inside])
        for scores, activations in zip(out, (positive, negative), strict=True):
            scores[inside] = directions.score(activations[inside])
    return out


def separate(
    train: tuple[np.ndarray, np.ndarray],
    heldout: tuple[np.ndarray, np.ndarray],
    block: int,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Separation:
    """Compare scores [n_questions] of two organisms: threshold from training questions, all else on held-out ones.

    `groups` names the groups of the held-out questions, for the interval.

    Raises:
        UserError: the two organisms were not asked the same number of held-out questions.
    """
    positive, negative = heldout
    if len(positive) != len(negative) or len(positive) < 2:
        raise UserError("Detection needs the same held-out questions for both organisms, at least two.")
    cut = best_threshold(*train)
    low, high = auroc_interval(positive, negative, seed, groups=groups)
    accuracy = ((positive > cut).mean() + (negative <= cut).mean()) / 2
    return Separation(
        auroc(positive, negative),
        low,
        high,
        d_prime(positive, negative),
        float(positive.mean() - negative.mean()),
        float(accuracy),
        block,
    )
