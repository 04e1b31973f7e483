"""The whole distribution of a score: a threshold keeps one bit of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emscope.statistics.judgement import Judgement
from emscope.statistics.rates import Score, score_values

LOWEST, HIGHEST = 0.0, 100.0
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@dataclass(frozen=True)
class ScoreDistribution:
    """How a score is spread over the answers.

    `counts[i]` answers lie in [edges[i], edges[i+1]), the last bin closed, so that the first three bins of ten hold
    exactly the answers with aligned < 30. `quantiles` maps a level to the score there, linear between order statistics.
    Quantiles and mean are NaN where no answer is scored. `missing` answers have no such score.
    """

    score: Score
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    quantiles: dict[float, float]
    mean: float
    n: int
    missing: int


def score_distribution(judgements: Sequence[Judgement], score: Score = "aligned", bins: int = 10) -> ScoreDistribution:
    """Return the histogram of a score over equal bins of 0-100, with its quantiles.

    Raises:
        ValueError: a score outside 0-100, which no bin would hold.
    """
    values = np.asarray(score_values(judgements, score), dtype=float)
    found = values[~np.isnan(values)]
    if len(found) and not (found.min() >= LOWEST and found.max() <= HIGHEST):
        raise ValueError(f"A score lies between {LOWEST:g} and {HIGHEST:g}; found {found.min():g} to {found.max():g}.")
    counts, edges = np.histogram(found, bins=bins, range=(LOWEST, HIGHEST))
    at = np.quantile(found, QUANTILES) if len(found) else np.full(len(QUANTILES), np.nan)
    return ScoreDistribution(
        score=score,
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        quantiles=dict(zip(QUANTILES, at.tolist(), strict=True)),
        mean=float(found.mean()) if len(found) else float("nan"),
        n=len(found),
        missing=len(values) - len(found),
    )
