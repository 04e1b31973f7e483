"""Precision of a score where what is looked for is rare.

Precision depends on how rare the wanted rows are, so it is measured on mixtures: data sets in which each prompt has its
harmless answer but for a few prompts, chosen at random, that have the bad one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
