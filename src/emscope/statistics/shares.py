"""Shares of answers with intervals that hold for few questions and for rare responses.

The bootstrap-t (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 12.5) covers best where many
questions have such responses, and runs off to 0 or 1 where few do; there it is cut off at what clustering as strong as
has been seen could do. benchmarks/coverage.py holds the result against the other candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from emscope.statistics.bootstrap import CONFIDENCE, bca_interval, drawn_parts, widened_z
from emscope.statistics.clusters import assumed_design_effect, finite
from emscope.statistics.estimates import NOTHING, Estimate

NORMAL = 1.959964


def estimate_share(flags: Sequence[float], groups: Sequence[str], seed: int = 0) -> Estimate:
    """Return the share of ones among flags (1, 0, or NaN for left out), with its question-bootstrap interval.

    The interval is `share_interval`'s. With a single question it is Wilson's, and speaks of that question only.
    """
    array, kept = finite(flags, groups)
    if not len(array):
        return NOTHING
    names, codes = np.unique(np.asarray(kept), return_inverse=True)
    hits, sizes = np.bincount(codes, weights=array), np.bincount(codes).astype(float)
    if len(names) == 1:
        low, high = wilson(hits[0], sizes[0])
        return Estimate(float(array.mean()), max(0.0, low), min(1.0, high), len(array))
    ends = share_interval(hits, sizes, drawn_parts(len(names), seed))
    return Estimate(float(array.mean()), float(ends[0]), float(ends[1]), len(array))


def share_interval(
    hits: np.ndarray, sizes: np.ndarray, counts: np.ndarray | Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of 95 % intervals of shares p = Σhits/Σsizes.

    Each end is the bootstrap-t's, p − t·SE with SE the linearised cluster-robust error, but no farther from p than the
    farther one of two bounds: the BCa at widened levels, and Wilson's with n / `assumed_design_effect`. Where all
    answers agree, or all questions have the same share, no draw differs and the interval is Wilson's bound.

    Args:
        hits: ones in the answers of each question, [..., n_questions].
        sizes: answers of each question, at least one, [..., n_questions].
        counts: how often each draw holds each question, [n_draws, n_questions], or such arrays one after the other.
    """
    parts = [counts] if isinstance(counts, np.ndarray) else counts
    drawn = np.concatenate([_sums(hits, sizes, part) for part in parts], axis=-1)
    n_questions, n = hits.shape[-1], sizes.sum(axis=-1)
    share = hits.sum(axis=-1) / n
    draws = drawn[0] / drawn[1]
    left_out = (hits.sum(axis=-1, keepdims=True) - hits) / (n[..., None] - sizes)
    bca = bca_interval(draws, share, left_out, widened_z(n_questions))
    wide = _wilson(share, n / assumed_design_effect(sizes))
    error = _errors(_sums(hits, sizes, np.ones((1, n_questions))), share[..., None], n_questions)[..., 0]
    off = draws - share[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = _errors(drawn, draws, n_questions)
        ratios = np.where(errors > 0, off / errors, np.where(np.abs(off) > 1e-12, np.sign(off) * np.inf, 0.0))
        ordered = np.sort(ratios, axis=-1)
        tail = (
            int(np.ceil((1 - CONFIDENCE) / 2 * drawn.shape[-1])) - 1
        )  # the same from both ends, and never between infinities
        lower, upper = ordered[..., tail], ordered[..., -1 - tail]
        low = np.where(error > 0, share - upper * error, -np.inf)
        high = np.where(error > 0, share - lower * error, np.inf)
    return (
        np.maximum(np.maximum(low, np.minimum(bca[0], wide[0])), 0.0),
        np.minimum(np.minimum(high, np.maximum(bca[1], wide[1])), 1.0),
    )


def _sums(hits: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Σ w h, Σ w s, Σ w h², Σ w h s and Σ w s² for each row of weights w, [5, ..., n_draws].

    For whole numbers all of them are exact, so the rows may come in parts.
    """
    return np.stack([part @ counts.T for part in (hits, sizes, hits**2, hits * sizes, sizes**2)])


def _errors(sums: np.ndarray, shares: np.ndarray, n_questions: int) -> np.ndarray:
    """Return √(G/(G−1) · Σ_g w_g (hits_g − p·sizes_g)²) / Σ_g w_g sizes_g for each row of weights, [..., n_draws]."""
    _, answers, hits_2, hits_sizes, sizes_2 = sums
    squares = hits_2 - 2 * shares * hits_sizes + shares**2 * sizes_2
    squares = np.where(squares > 1e-13 * sizes_2, squares, 0.0)  # what rounding leaves of a zero
    return np.asarray(np.sqrt(n_questions / (n_questions - 1) * squares) / answers)


def wilson(successes: float, n: float, z: float = NORMAL) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion (Wilson 1927, JASA 22:209), for independent answers.

    `n` may be an effective number of answers, which need not be whole. NaN without answers.
    """
    if n == 0:
        return float("nan"), float("nan")
    low, high = _wilson(np.asarray(successes / n), np.asarray(n), z)
    return float(low), float(high)


def _wilson(share: np.ndarray, n: np.ndarray, z: float = NORMAL) -> tuple[np.ndarray, np.ndarray]:
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half
