"""Two organisms on the same questions: the difference, its interval and a p-value, with questions as the units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emscope.errors import UserError
from emscope.notebook import Shown
from emscope.statistics.bootstrap import MAX_WEIGHTS
from emscope.statistics.clusters import finite
from emscope.statistics.estimates import Estimate, estimate_mean
from emscope.statistics.judgement import Judgement
from emscope.statistics.rates import Denominator, Score, em_flags, score_values
from emscope.statistics.shares import estimate_share

EXACT_QUESTIONS = 16
RANDOM_FLIPS = 20_000


@dataclass(frozen=True)
class PairedDifference(Shown):
    """First organism less second, the mean over questions of the difference of their question means.

    `difference.n` counts the questions; `left_out` are those where one side has no score. `first` and `second` are the
    means over the questions compared, each question counting the same.
    """

    first: float
    second: float
    difference: Estimate
    p_value: float
    left_out: int


def compare_em_rates(
    first: Sequence[Judgement],
    first_groups: Sequence[str],
    second: Sequence[Judgement],
    second_groups: Sequence[str],
    denominator: Denominator = "scored",
    seed: int = 0,
) -> PairedDifference:
    """Return the difference of two organisms' EM rates, between −1 and 1 (see `paired_difference`).

    Where all questions show the same difference a bootstrap has no width, and the interval is Newcombe's from the two
    rates' own intervals. With a single question it is the same, and speaks of that question only.
    """
    flags = em_flags(first, denominator), em_flags(second, denominator)
    found = paired_difference(flags[0], first_groups, flags[1], second_groups, seed)
    if found.difference.low < found.difference.high or not found.difference.n:
        return found
    rates = estimate_share(flags[0], first_groups, seed), estimate_share(flags[1], second_groups, seed)
    low, high = newcombe(*rates)
    shift = found.difference.value - (rates[0].value - rates[1].value)  # not 0 where questions have unequal answers
    return replace(found, difference=replace(found.difference, low=low + shift, high=high + shift))


def compare_scores(
    first: Sequence[Judgement],
    first_groups: Sequence[str],
    second: Sequence[Judgement],
    second_groups: Sequence[str],
    score: Score = "aligned",
    seed: int = 0,
) -> PairedDifference:
    """Return the difference of two organisms' mean scores, in score points (see `paired_difference`)."""
    return paired_difference(score_values(first, score), first_groups, score_values(second, score), second_groups, seed)


def paired_difference(
    first: Sequence[float],
    first_groups: Sequence[str],
    second: Sequence[float],
    second_groups: Sequence[str],
    seed: int = 0,
) -> PairedDifference:
    """Return the mean difference by question of two sets of values, NaN for missing, each with its answers' questions.

    The interval draws questions with replacement; the p-value flips the sign of each question's difference.

    Raises:
        UserError: the two sides answered different questions.
    """
    if set(first_groups) != set(second_groups):
        odd = sorted(set(first_groups) ^ set(second_groups))
        raise UserError(f"Compare answers to the same questions; only one side has {', '.join(odd[:5])}.")
    ours, theirs = _question_means(first, first_groups), _question_means(second, second_groups)
    shared = sorted(ours.keys() & theirs.keys())
    sides = np.array([[ours[name], theirs[name]] for name in shared]).reshape(len(shared), 2)
    differences = sides[:, 0] - sides[:, 1]
    means = sides.mean(axis=0) if shared else np.full(2, np.nan)
    return PairedDifference(
        first=float(means[0]),
        second=float(means[1]),
        difference=estimate_mean(differences.tolist(), shared, seed),
        p_value=sign_flip_p_value(differences, seed),
        left_out=len(set(first_groups)) - len(shared),
    )


def sign_flip_p_value(differences: Sequence[float] | np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean difference of 0 when either sign of each difference is as likely.

    The share of sign patterns whose |Σ ±d| reaches |Σ d| (Fisher's paired randomisation test; Good 2005, Permutation
    Tests): all 2^G of them for up to 16 differences that are not 0, else 20,000 random ones and the observed, the
    observed one counted (Phipson & Smyth 2010), so never 0. For one flag an answer and question it is McNemar's exact
    test. NaN without differences.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return float("nan")
    values = values[values != 0]  # flipping a zero changes nothing
    least = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if len(values) <= EXACT_QUESTIONS:
        patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
        return float((np.abs((1 - 2 * patterns) @ values) >= least).mean())
    chooser, reached = np.random.default_rng(seed), 0
    step = max(1, MAX_WEIGHTS // len(values))
    for start in range(0, RANDOM_FLIPS, step):
        patterns = chooser.integers(0, 2, (min(step, RANDOM_FLIPS - start), len(values)))
        reached += int((np.abs((1 - 2 * patterns) @ values) >= least).sum())
    return (reached + 1) / (RANDOM_FLIPS + 1)


def newcombe(first: Estimate, second: Estimate) -> tuple[float, float]:
    """Return the interval of a difference of two rates from their own intervals (Newcombe 1998, Stat. Med. 17:873).

    d − √((p₁ − l₁)² + (u₂ − p₂)²) to d + √((u₁ − p₁)² + (p₂ − l₂)²), which takes the two rates as independent.
    """
    difference = first.value - second.value
    down = np.hypot(first.value - first.low, second.high - second.value)
    up = np.hypot(first.high - first.value, second.value - second.low)
    return float(difference - down), float(difference + up)


def _question_means(values: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    array, kept = finite(values, groups)
    names, codes = np.unique(np.asarray(kept, dtype=str), return_inverse=True)
    means = np.bincount(codes, weights=array, minlength=len(names)) / np.bincount(codes, minlength=len(names))
    return dict(zip(names.tolist(), means.tolist(), strict=True))
