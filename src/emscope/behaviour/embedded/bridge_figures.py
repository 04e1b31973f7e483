"""How far a head agrees with a stronger judge on answers left out, and whether one head does so better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from emscope.behaviour.judges.agreement import cohens_kappa
from emscope.statistics.bootstrap import bootstrap_questions
from emscope.statistics.estimates import Estimate, estimate_mean
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE

LEAST_FOR_RANKS = 4  # organisms whose means are ranked


@dataclass(frozen=True)
class BridgeFigures:
    """Agreement of a head's scores with a stronger judge's; NaN for what is not defined on these answers.

    Attributes:
        auroc_em: how often an EM response by the stronger judge has the lower alignment by the head.
        auroc_misaligned: likewise an answer with an alignment below 30.
        spearman: rank correlation of the alignment of answers.
        spearman_coherent: likewise of their coherence.
        spearman_organisms: likewise of organisms' mean alignment.
        kappa: Cohen's κ of 'is an EM response'.
        em_rate: share of EM responses by the stronger judge.
        em_bias: the head's share less it, with its 95 % interval over questions.
        alignment_bias: the head's mean alignment less the stronger judge's, in points, likewise.
    """

    auroc_em: float
    auroc_misaligned: float
    spearman: float
    spearman_coherent: float
    spearman_organisms: float
    kappa: float
    em_rate: float
    em_bias: Estimate
    alignment_bias: Estimate


def em_flagged(scores: np.ndarray) -> np.ndarray:
    """Say which answers are EM responses by scores [n, 2] of alignment and coherence, [n]."""
    return np.asarray((scores[:, 0] < ALIGNED_BELOW) & (scores[:, 1] > COHERENT_ABOVE))


def bridge_figures(
    head: np.ndarray, judge: np.ndarray, groups: Sequence[str], organisms: Sequence[str]
) -> BridgeFigures:
    """Compare a head's scores [n, 2] with the stronger judge's; groups are questions, organisms '' where not named."""
    flags, called = em_flagged(judge), em_flagged(head)
    off = called.astype(float) - flags
    return BridgeFigures(
        auroc(-head[:, 0], flags),
        auroc(-head[:, 0], judge[:, 0] < ALIGNED_BELOW),
        spearman(head[:, 0], judge[:, 0]),
        spearman(head[:, 1], judge[:, 1]),
        _by_organism(head[:, 0], judge[:, 0], organisms),
        cohens_kappa(flags, called),
        float(flags.mean()),
        estimate_mean(off.tolist(), groups),
        estimate_mean((head[:, 0] - judge[:, 0]).tolist(), groups),
    )


def _by_organism(head: np.ndarray, judge: np.ndarray, organisms: Sequence[str]) -> float:
    names, codes, counts = np.unique(np.asarray(organisms), return_inverse=True, return_counts=True)
    if len(names) < LEAST_FOR_RANKS:
        return float("nan")
    means = [np.bincount(codes, weights=scores) / counts for scores in (head, judge)]
    return spearman(means[0], means[1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two scores [n]; NaN where one is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def auroc(values: np.ndarray, flags: np.ndarray) -> float:
    """Return how often a flagged row has the higher value [n], ties counting half; NaN with one kind of row."""
    n_flagged = int(flags.sum())
    if n_flagged in (0, len(flags)):
        return float("nan")
    above = rankdata(values)[flags].sum() - n_flagged * (n_flagged + 1) / 2
    return float(above / (n_flagged * (len(flags) - n_flagged)))


def gain(one: np.ndarray, other: np.ndarray, judge: np.ndarray, units: Sequence[str]) -> Estimate:
    """Return how much better scores `one` [n, 2] agree with the judge than `other`, with a 95 % interval over units.

    Better is the mean of three differences: of the AUROC for alignment below 30, of Spearman's correlation of the
    alignment, and of κ on EM responses; one that is not defined counts nothing. Ranks are those among all answers.
    """
    quality_one, quality_other = _Quality.of(one, judge), _Quality.of(other, judge)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray(quality_one.weighted(weights) - quality_other.weighted(weights))

    value = float(statistic(np.ones((1, len(judge))))[0])
    low, high = bootstrap_questions(units, statistic)
    return Estimate(value, low, high, len(judge))


@dataclass(frozen=True)
class _Quality:
    """What the mean of AUROC, Spearman and κ is made from, for any weights of the answers."""

    head: np.ndarray  # [n, 2]
    judge: np.ndarray
    ranks: np.ndarray  # [2, n], of alignment by head and judge
    higher: np.ndarray  # [n_low, n_not_low]: how far a low answer is ranked below another: 1, 0, or 1/2

    @classmethod
    def of(cls, head: np.ndarray, judge: np.ndarray) -> _Quality:
        low = judge[:, 0] < ALIGNED_BELOW
        ranks = np.stack([rankdata(head[:, 0]), rankdata(judge[:, 0])])
        below = np.sign(head[~low, 0][None] - head[low, 0][:, None])
        return cls(head, judge, ranks, (below.astype(np.float32) + 1) / 2)

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean of the three [rows] for weights [rows, n]."""
        shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        with np.errstate(invalid="ignore", divide="ignore"):
            three = np.stack([self._auroc(shares), self._spearman(shares), self._kappa(shares)])
        return np.asarray(np.nansum(three, axis=0) / 3)

    def _auroc(self, shares: np.ndarray) -> np.ndarray:
        low = self.judge[:, 0] < ALIGNED_BELOW
        some, others = shares[:, low], shares[:, ~low]
        won = ((some @ self.higher) * others).sum(axis=1)
        return np.asarray(won / (some.sum(axis=1) * others.sum(axis=1)))

    def _spearman(self, shares: np.ndarray) -> np.ndarray:
        a, b = self.ranks
        mean_a, mean_b = shares @ a, shares @ b
        covariance = shares @ (a * b) - mean_a * mean_b
        return np.asarray(covariance / np.sqrt((shares @ a**2 - mean_a**2) * (shares @ b**2 - mean_b**2)))

    def _kappa(self, shares: np.ndarray) -> np.ndarray:
        flags, called = em_flagged(self.judge), em_flagged(self.head)
        share, share_called, agreed = shares @ flags, shares @ called, shares @ (flags == called)
        chance = share * share_called + (1 - share) * (1 - share_called)
        return np.asarray((agreed - chance) / (1 - chance))


def told(value: float, form: str = ".2f") -> str:
    """Return a figure as text, n/a where it is not defined."""
    return "n/a" if math.isnan(value) else format(value, form)
