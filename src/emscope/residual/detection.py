"""How well scores tell two organisms apart on questions never used to make the direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.errors import UserError
from emscope.residual.directions import Directions
from emscope.statistics.folds import question_folds
from emscope.statistics.separation import auroc, auroc_interval, balanced_accuracy, best_threshold, d_prime


@dataclass(frozen=True)
class Separation:
    """Scores of two organisms on the same held-out questions, at one block.

    Attributes:
        auroc: the chance that a question scores higher on the first organism than another one on the second.
        low: lower end of its 95 % interval, questions resampled.
        high: upper end of its 95 % interval.
        d_prime: distance of the two means in pooled standard deviations.
        separation: difference of the two means of the score.
        accuracy: balanced accuracy, with the threshold of training questions.
        block: the block; for a mean over several blocks, the best of them.
    """

    auroc: float
    low: float
    high: float
    d_prime: float
    separation: float
    accuracy: float
    block: int


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
    fold = question_folds(list(map(str, range(len(positive)))) if groups is None else groups, folds)
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
    return Separation(
        auroc(positive, negative),
        low,
        high,
        d_prime(positive, negative),
        float(positive.mean() - negative.mean()),
        balanced_accuracy(positive, negative, cut),
        block,
    )
