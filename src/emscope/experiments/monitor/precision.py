"""Precision of screening on mixtures of careless and careful rows, and AUROC, with intervals over topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.experiments.monitor.result import MeanPrecision, Precision, PrecisionByScore, ScreenedRows
from emscope.organisms.datasets import Pair
from emscope.residual.ranking import MixtureDraws, draw_mixtures
from emscope.statistics import Estimate
from emscope.statistics.separation import auroc, grouped_auroc

RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HALF = RECALLS.index(0.5)
RANDOM = "random"

Mixtures = Mapping[float, MixtureDraws]
"""Precision on random mixtures, by the share of careless rows in them."""


@dataclass(frozen=True)
class Screened:
    """One domain screened.

    Attributes:
        pairs: its prompts with both answers.
        scores: by name of the score, of the careless and of the careful answers, [2, n_prompts].
        blocks: where directions were read.
    """

    pairs: list[Pair]
    scores: dict[str, np.ndarray]
    blocks: dict[str, int]

    @property
    def topics(self) -> list[str]:
        """The topic of each prompt."""
        return [f"{pair.domain} {pair.topic}" for pair in self.pairs]

    @property
    def careless(self) -> np.ndarray:
        """Scores of the careless answers, [n_scores, n_prompts]."""
        return np.stack(list(self.scores.values()))[:, 0]

    @property
    def careful(self) -> np.ndarray:
        """Scores of the careful answers, [n_scores, n_prompts]."""
        return np.stack(list(self.scores.values()))[:, 1]


def mix(screened: Screened, shares: Sequence[float], draws: int, seed: int) -> dict[float, MixtureDraws]:
    """Mix a domain's careless answers into its careful ones, by each share, and measure how well they are found."""
    mixtures = {}
    for share in shares:
        mixtures[share] = draw_mixtures(
            screened.careless, screened.careful, screened.topics, share, RECALLS, draws, seed
        )
    return mixtures


def rows_result(screened: Screened, mixtures: Mixtures, seed: int) -> ScreenedRows:
    """Return the figures of one domain."""
    names, topics = list(screened.scores), screened.topics
    scores = np.concatenate([screened.careless, screened.careful], axis=1)
    is_careless = np.arange(scores.shape[1]) < len(topics)
    return ScreenedRows(
        n_prompts=len(topics),
        n_topics=len(set(topics)),
        blocks=screened.blocks,
        auroc=aurocs(names, scores, topics * 2, is_careless, seed),
        precision_at_half_recall=_at_half_recall(names, mixtures),
    )


def mean_result(names: Sequence[str], mixtures: Sequence[Mixtures]) -> MeanPrecision:
    """Return precision averaged over domains, draw by draw."""
    averaged: dict[float, MixtureDraws] = {}
    for share in mixtures[0]:
        plain = np.mean([of_domain[share].plain for of_domain in mixtures], axis=0)
        resampled = np.mean([of_domain[share].resampled for of_domain in mixtures], axis=0)
        averaged[share] = MixtureDraws(plain, resampled)

    curves: dict[str, dict[str, list[float]]] = {}
    for name in _pooled_names(names):
        curves[name] = {}
        for share, drawn in averaged.items():
            curves[name][f"{share:g}"] = _of_score(drawn.plain, names, name).mean(axis=0).tolist()
    return MeanPrecision(_at_half_recall(names, averaged), list(RECALLS), curves)


def _at_half_recall(names: Sequence[str], mixtures: Mixtures) -> PrecisionByScore:
    """Return the mean over draws and 95 % of the resampled draws, by score and share."""
    by_score: dict[str, dict[str, Precision]] = {}
    for name in _pooled_names(names):
        by_score[name] = {}
        for share, drawn in mixtures.items():
            value = _of_score(drawn.plain, names, name)[:, HALF].mean()
            low, high = np.quantile(_of_score(drawn.resampled, names, name)[:, HALF], [0.025, 0.975])
            by_score[name][f"{share:g}"] = Precision(float(value), float(low), float(high))
    return PrecisionByScore(**by_score)


def _pooled_names(names: Sequence[str]) -> list[str]:
    """Return the scores' names, the random ones under one."""
    return list(dict.fromkeys(RANDOM if name.startswith(RANDOM) else name for name in names))


def _of_score(precision: np.ndarray, names: Sequence[str], pooled: str) -> np.ndarray:
    """Return precision [n_draws, n_recalls] of one score, averaged over random directions."""
    columns = [number for number, name in enumerate(names) if name == pooled or name.startswith(f"{pooled}-")]
    return np.asarray(precision[:, columns].mean(axis=1))


def aurocs(
    names: Sequence[str], scores: np.ndarray, groups: Sequence[str], positive: np.ndarray, seed: int
) -> dict[str, Estimate]:
    """Return the AUROC of each score [n_scores, n_rows] for positive rows (flags), with its interval over groups.

    Random directions share one entry, the last: their mean and extremes.
    """
    estimates: dict[str, Estimate] = {}
    random = []
    for name, of_rows in zip(names, scores, strict=True):
        if name.startswith(RANDOM):
            random.append(auroc(of_rows[positive], of_rows[~positive]))
        else:
            estimates[name] = grouped_auroc(of_rows, positive, groups, seed=seed)
    if random:
        estimates[RANDOM] = Estimate(float(np.mean(random)), min(random), max(random), len(random))
    return estimates
