"""How much answers to one question resemble each other, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ASSUMED_ICC = 1 / 3
"""Where no answer differs from another the data cannot say; the eight open-ended questions with 50 answers each show
design effects of 2 to 17 for released organisms, and (17 − 1) / (50 − 1) is a third."""


def finite(values: Sequence[float], groups: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the values that are numbers, float64 [n], and the groups they belong to.

    Raises:
        ValueError: not one group for each value.
    """
    array = np.asarray(values, dtype=float)
    keep = np.isfinite(array)
    return array[keep], [group for group, one in zip(groups, keep, strict=True) if one]


def cluster_standard_error(values: Sequence[float], groups: Sequence[str]) -> float:
    """Return the linearised standard error of a mean whose questions are independent and whose answers are not.

    √(G/(G−1) · Σ_g (Σ_{i∈g} (yᵢ − ȳ))²) / n, in the unit of the values (Cochran 1977, Sampling Techniques, section
    9A.4; the cluster-robust error of a regression on a constant). NaN with fewer than two questions.
    """
    array, kept = finite(values, groups)
    names, codes = np.unique(np.asarray(kept), return_inverse=True)
    if len(names) < 2:
        return float("nan")
    totals = np.bincount(codes, weights=array - array.mean())
    return float(np.sqrt(len(names) / (len(names) - 1) * np.sum(totals**2)) / len(array))


def design_effect(values: Sequence[float], groups: Sequence[str]) -> float:
    """Return the variance of the mean over what it were if all answers were independent (Kish 1965, Survey Sampling).

    The numerator is `cluster_standard_error` squared, the denominator Σ(yᵢ − ȳ)²/n², which for flags is the binomial
    p(1 − p)/n. NaN where all values agree or there is one question.
    """
    array, kept = finite(values, groups)
    independent = float(np.sum((array - array.mean()) ** 2)) / len(array) ** 2 if len(array) else 0.0
    if independent == 0:
        return float("nan")
    return cluster_standard_error(array.tolist(), kept) ** 2 / independent


def effective_n(values: Sequence[float], groups: Sequence[str]) -> float:
    """Return how many independent answers would say as much: n / max(1, design effect).

    A design effect below one is chance where questions are few, and earns nothing. NaN where `design_effect` is.
    """
    array, kept = finite(values, groups)
    return len(array) / float(np.maximum(1.0, design_effect(array.tolist(), kept)))


def assumed_design_effect(sizes: np.ndarray) -> np.ndarray:
    """Return 1 + (m − 1) · `ASSUMED_ICC`, m = Σ n_g²/n: what clustering may cost where the data cannot say, [...].

    Kish's formula for a known intraclass correlation (1965, Survey Sampling, section 5.4), with the answers of each
    question [..., n_questions]. It is 1 for a single question, whose answers are independent given that question.
    """
    if sizes.shape[-1] < 2:
        return np.ones(sizes.shape[:-1])
    typical = np.sum(sizes**2, axis=-1) / np.sum(sizes, axis=-1)
    return np.asarray(1 + (typical - 1) * ASSUMED_ICC)


def intraclass_correlation(values: Sequence[float], groups: Sequence[str]) -> float:
    """Return the share of the variance that lies between questions, by the analysis-of-variance estimator.

    (MSB − MSW) / (MSB + (n₀ − 1) MSW), n₀ = (n − Σ n_g²/n) / (G − 1), for scores and flags alike (Ridout, Demétrio &
    Firth 1999, Biometrics 55:137). Slightly negative where questions differ less than chance makes them; NaN where all
    values agree, or there is one question, or one answer to each.
    """
    array, kept = finite(values, groups)
    _, codes, counts = np.unique(np.asarray(kept), return_inverse=True, return_counts=True)
    n, n_groups = len(array), len(counts)
    if n_groups < 2 or n == n_groups:
        return float("nan")
    means = np.bincount(codes, weights=array) / counts
    between = np.sum(counts * (means - array.mean()) ** 2) / (n_groups - 1)
    within = np.sum((array - means[codes]) ** 2) / (n - n_groups)
    typical = (n - np.sum(counts**2) / n) / (n_groups - 1)
    whole = between + (typical - 1) * within
    return float((between - within) / whole) if whole > 0 else float("nan")
