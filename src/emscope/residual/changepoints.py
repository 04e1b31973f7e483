"""The change in a curve: where it lies, how sure that is, and whether it is a transition or a gradual drift.

A transition is slow, then fast, then slow again (`step`, a logistic), or a bump (`peak`, a Gaussian). What it is held
against is gradual: a straight line, or an exponential that flattens out or speeds up over the whole run. Both families
are linear but for a centre and a width, or a rate, which are taken from a grid; so one matrix product fits all curves.
It knows nothing of what the curves are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Shape = Literal["step", "peak"]

MIN_POINTS = 6
LEVEL = 0.05  # a transition is claimed below this p-value
PER_INTERVAL = 6  # centres tried between two points
MAX_LEAN = 0.7  # of a point on the one before: beyond it noise cannot be told from a drift
RISE = 2 * float(np.log(9))  # a logistic takes this many scales from 10 % to 90 %
HALF_HEIGHT = 2 * float(np.sqrt(2 * np.log(2)))  # full width of a Gaussian at half its height, in deviations
FITTED = 5  # what a fit of level, size and a searched centre and width takes out of the noise, by simulation


@dataclass(frozen=True)
class ChangePoint:
    """The single change of a curve.

    Attributes:
        at: where the fitted step has done half of what it does over the times, or the top of the peak; NaN where flat.
        low: lower end of its 95 % interval.
        high: upper end.
        width: from 10 % to 90 % of the step over the times, or the peak's full width at half its height.
        size: fitted change from the first time to the last, or height of the peak.
        p_value: how often a gradual curve with the same noise looks as much like a transition.
        transition: whether the p-value is below 0.05.
        draws: the change-point of each bootstrap curve, float64 [n_draws]; NaN for a curve that is not finite.
    """

    at: float
    low: float
    high: float
    width: float
    size: float
    p_value: float
    transition: bool
    draws: np.ndarray = field(repr=False, compare=False)


class _Family:
    """Curves a + b·g for every g of a family, fitted by least squares to many curves at once; `upward` wants b ≥ 0."""

    def __init__(self, shapes: np.ndarray, *, upward: bool = False) -> None:
        self.upward = upward
        centred = shapes - shapes.mean(axis=1, keepdims=True)
        self.norms = np.linalg.norm(centred, axis=1)
        self.units = np.where(self.norms[:, None] > 1e-9, centred / np.maximum(self.norms, 1e-9)[:, None], 0.0)

    def fit(self, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each curve [rows, n_points] the best shape, its coefficient and the squared error, each [rows]."""
        centred = curves - curves.mean(axis=1, keepdims=True)
        along = centred @ self.units.T
        best = (np.maximum(along, 0) if self.upward else np.abs(along)).argmax(axis=1)
        chosen = along[np.arange(len(curves)), best]
        chosen = np.maximum(chosen, 0) if self.upward else chosen
        left = np.maximum((centred**2).sum(axis=1) - chosen**2, 1e-12 * (centred**2).sum(axis=1))
        return best, chosen, left

    def curve(self, values: np.ndarray, best: int, coefficient: float) -> np.ndarray:
        """Return the fitted curve [n_points]."""
        return np.asarray(values.mean() + coefficient * self.units[best])


@dataclass(frozen=True)
class _Transitions:
    """The grid of transitions over some times: the curves, and where each of them is, how wide and how large."""

    family: _Family
    places: np.ndarray
    widths: np.ndarray
    sizes: np.ndarray

    @classmethod
    def over(cls, times: np.ndarray, shape: Shape) -> _Transitions:
        """Centres from the second point to the last but one; widths up to half of the run.

        A step may fall between two points; a peak is at least two intervals wide, so that no single point makes one.
        """
        gap, span = float(np.median(np.diff(times))), float(times[-1] - times[0])
        centres = np.linspace(times[1], times[-2], PER_INTERVAL * (len(times) - 3) + 1)
        widths = np.geomspace(gap / 2 if shape == "step" else 2 * gap, span / 2, 8)
        centre, width = (grid.ravel() for grid in np.meshgrid(centres, widths, indexing="ij"))
        away = (times - centre[:, None]) / width[:, None]
        if shape == "peak":
            family = _Family(np.exp(-((HALF_HEIGHT * away) ** 2) / 2), upward=True)
            return cls(family, centre, width, np.ones(len(centre)))
        levels = _logistic(RISE * away)
        first, last = levels[:, 0], levels[:, -1]

        def reached(share: float) -> np.ndarray:
            """Return when each logistic has done this share of what it does over the times."""
            return np.asarray(centre + width / RISE * _logit(first + share * (last - first)))

        return cls(_Family(levels), reached(0.5), reached(0.9) - reached(0.1), last - first)


def _logit(share: np.ndarray) -> np.ndarray:
    inside = np.clip(share, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(inside / (1 - inside)))


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray((1 + np.tanh(x / 2)) / 2)


def _gradual(times: np.ndarray) -> _Family:
    """The line, and exponentials that flatten out or speed up, from a quarter of an interval to ten runs."""
    gap, span = float(np.median(np.diff(times))), float(times[-1] - times[0])
    passed = (times - times[0])[None]
    rates = np.geomspace(gap / 4, 10 * span, 40)[:, None]
    return _Family(np.concatenate([passed, np.exp(-passed / rates), np.exp((passed - span) / rates)]))


def find_change(
    times: np.ndarray,
    values: np.ndarray,
    *,
    shape: Shape = "step",
    replicates: np.ndarray | None = None,
    seed: int = 0,
    n_draws: int = 1000,
) -> ChangePoint:
    """Fit one change to a curve: values [n_points] at rising times [n_points].

    The interval comes from `replicates` [n_draws, n_points], the curve of each bootstrap sample of what was averaged;
    without them from the fitted curve with autocorrelated noise of its residuals' size (a parametric bootstrap). The
    p-value compares log(error of the gradual fit / error of the transition) with its values for the gradual fit with
    such noise.

    Raises:
        ValueError: fewer than six points, times that do not rise, or values that are not finite.
    """
    times, values = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    if len(times) < MIN_POINTS or (np.diff(times) <= 0).any() or not np.isfinite(values).all():
        raise ValueError(f"A change needs at least {MIN_POINTS} finite values at rising times.")
    if np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())):
        nothing = float("nan")
        return ChangePoint(nothing, nothing, nothing, nothing, 0.0, 1.0, False, np.full(n_draws, nothing))
    grid, gradual, chooser = _Transitions.over(times, shape), _gradual(times), np.random.default_rng(seed)

    (best,), (coefficient,), (error,) = grid.family.fit(values[None])
    fitted = grid.family.curve(values, best, coefficient)
    noise = _noise(values - fitted, chooser, n_draws)
    p_value = _p_value(values, float(error), grid, gradual, noise)

    curves = fitted + noise if replicates is None else np.asarray(replicates, dtype=float)
    whole = np.isfinite(curves).all(axis=1)
    draws = np.full(len(curves), np.nan)
    draws[whole] = grid.places[grid.family.fit(curves[whole])[0]]
    low, high = np.quantile(draws[whole], [0.025, 0.975]) if whole.any() else (np.nan, np.nan)

    return ChangePoint(
        float(grid.places[best]),
        float(low),
        float(high),
        float(grid.widths[best]),
        float(coefficient / grid.family.norms[best] * grid.sizes[best]),
        p_value,
        p_value < LEVEL,
        draws,
    )


def _p_value(values: np.ndarray, error: float, grid: _Transitions, gradual: _Family, noise: np.ndarray) -> float:
    (best,), (coefficient,), (null_error,) = gradual.fit(values[None])
    observed = np.log(null_error / error)
    null = gradual.curve(values, best, coefficient) + noise
    simulated = np.log(gradual.fit(null)[2] / grid.family.fit(null)[2])
    return float((1 + (simulated >= observed).sum()) / (1 + len(simulated)))


def _noise(residuals: np.ndarray, chooser: np.random.Generator, n_draws: int) -> np.ndarray:
    """Return normal noise like the residuals, each point leaning on the one before (AR(1)), [n_draws, n_points].

    A fit takes slow noise out of the residuals first, so their correlation is raised by what that costs.
    """
    n = len(residuals)
    lag = float(residuals[1:] @ residuals[:-1]) / max(float(residuals @ residuals), 1e-300)
    lean = min(max(0.0, lag + FITTED / n), MAX_LEAN)
    spread = np.sqrt(float(residuals @ residuals) / max(1, n - FITTED))
    drawn = chooser.standard_normal((n_draws, n))
    for point in range(1, n):
        drawn[:, point] = lean * drawn[:, point - 1] + np.sqrt(1 - lean**2) * drawn[:, point]
    return np.asarray(spread * drawn)
