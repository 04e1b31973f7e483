"""How well a score ranks what is looked for above the rest: AUROC by question, and precision where it is rare.

Precision depends on how rare the wanted rows are, so it is measured on mixtures: data sets in which each prompt has its
harmless answer but for a few prompts, chosen at random, that have the bad one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emscope.statistics import Estimate, bootstrap_questions


def grouped_auroc(
    scores: np.ndarray, wanted: np.ndarray, groups: Sequence[str], *, within: bool = False, seed: int = 0
) -> Estimate:
    """Return the chance that a wanted row scores above another one, with its interval from resampling questions.

    `scores` and `wanted` (flags) are [n_rows]; ties count one half; rows without a score are left out. `within`
    compares only rows of one question, so that what the question alone tells does not count. NaN where nothing can be
    compared. `n` counts the rows that are compared.
    """
    keep = np.isfinite(scores)
    values, flags = scores[keep], wanted[keep].astype(bool)
    kept = np.asarray(groups)[keep]
    above = np.sign(values[flags][:, None] - values[~flags][None, :]) / 2 + 0.5
    compared = (kept[flags][:, None] == kept[~flags][None, :]) if within else np.ones_like(above, dtype=bool)
    n = int(compared.any(axis=1).sum() + compared.any(axis=0).sum())
    if not compared.any():
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    wins, pairs = above * compared, compared.astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        high, low = weights[:, flags], weights[:, ~flags]
        # a question drawn twice is two questions: its rows meet once each, not four times
        other = low > 0 if within else low
        return np.asarray(((high @ wins) * other).sum(axis=1) / ((high @ pairs) * other).sum(axis=1))

    value = float(wins.sum() / pairs.sum())
    low, high = bootstrap_questions(kept.tolist(), statistic, seed)
    return Estimate(value, low, high, n)


def auroc_gain(
    scores: np.ndarray, reference: np.ndarray, wanted: np.ndarray, groups: Sequence[str], seed: int = 0
) -> Estimate:
    """Return how much larger the AUROC of some scores is than that of reference scores of the same rows.

    All are [n_rows]; the interval resamples questions, the same ones for both. NaN where one side has no rows.
    """
    flags = wanted.astype(bool)
    if not 0 < flags.sum() < len(flags):
        return Estimate(float("nan"), float("nan"), float("nan"), len(flags))
    first, second = (np.sign(item[flags][:, None] - item[~flags][None, :]) / 2 for item in (scores, reference))
    difference = first - second

    def statistic(weights: np.ndarray) -> np.ndarray:
        high, low = weights[:, flags], weights[:, ~flags]
        return np.asarray(((high @ difference) * low).sum(axis=1) / (high.sum(axis=1) * low.sum(axis=1)))

    return Estimate(float(difference.mean()), *bootstrap_questions(groups, statistic, seed), len(flags))


def precision_at_recalls(wanted: np.ndarray, others: np.ndarray, recalls: Sequence[float]) -> np.ndarray:
    """Return the precision when the best rows are taken until a share of the wanted ones is found.

    Args:
        wanted: scores of the rows that are looked for [..., n_wanted].
        others: scores of the other rows [..., n_others].
        recalls: shares of the wanted rows, above 0 up to 1.

    Returns:
        Precision [..., n_recalls]; all rows that tie with the last one taken are taken too.
    """
    n = wanted.shape[-1]
    places = np.maximum(np.ceil(np.asarray(recalls) * n - 1e-9).astype(int), 1) - 1
    cuts = -np.sort(-wanted, axis=-1)[..., places]
    found = (wanted[..., None, :] >= cuts[..., None]).sum(axis=-1)
    false = (others[..., None, :] >= cuts[..., None]).sum(axis=-1)
    return np.asarray(found / (found + false))


@dataclass(frozen=True)
class MixtureDraws:
    """Precision of several scores on random mixtures, float64 [n_draws, n_scores, n_recalls]."""

    plain: np.ndarray
    resampled: np.ndarray


def draw_mixtures(
    bad: np.ndarray,
    good: np.ndarray,
    topics: Sequence[str],
    share: float,
    recalls: Sequence[float],
    draws: int = 200,
    seed: int = 0,
) -> MixtureDraws:
    """Mix bad answers into good ones and measure how well scores find them.

    `bad` and `good` [n_scores, n_prompts] score the two answers to each prompt. A mixture takes the bad answer of
    `share` of the prompts (at least one), chosen at random, and the good one of the others. `plain` draws use every
    prompt once; `resampled` ones draw topics with replacement first, for intervals that speak of other prompts too.
    """
    chooser = np.random.default_rng(seed)
    names, codes = np.unique(np.asarray(topics), return_inverse=True)
    members = [np.flatnonzero(codes == number) for number in range(len(names))]
    everything = np.arange(bad.shape[1])
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(draws):
        again = np.concatenate([members[number] for number in chooser.integers(0, len(names), len(names))])
        for rows, into in zip((everything, again), found, strict=True):
            mixed = chooser.permutation(rows)
            n_bad = max(1, round(share * len(mixed)))
            into.append(precision_at_recalls(bad[:, mixed[:n_bad]], good[:, mixed[n_bad:]], recalls))
    return MixtureDraws(np.stack(found[0]), np.stack(found[1]))
