"""The smallest effect a sample of this size could have seen; a null result means little without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from emscope.statistics.clusters import assumed_design_effect, design_effect, finite
from emscope.statistics.judgement import Judgement
from emscope.statistics.rates import Denominator, em_flags

POWER, ALPHA = 0.8, 0.05


def detectable_rate(
    rate: float,
    n: float,
    deff: float = 1.0,
    other_n: float | None = None,
    power: float = POWER,
    alpha: float = ALPHA,
) -> float:
    """Return the smallest second rate above `rate` that a two-sided test of two organisms would find this often.

    sin²(asin √rate + h/2), h = (z(1−α/2) + z(power)) · √(deff/n + deff/n'), the arcsine approximation (Cohen 1988,
    Statistical Power Analysis, chapter 6). `n` answers of one organism, `other_n` of the other (the same if not given),
    `deff` the design effect of both. Pairing by question can see more; with ten questions or fewer these normal
    quantiles are a little hopeful. NaN where even a rate of 1 would be missed.
    """
    effect = _standard_errors(power, alpha) * np.sqrt(deff / n + deff / (n if other_n is None else other_n))
    angle = np.arcsin(np.sqrt(rate)) + effect / 2
    return float(np.sin(angle) ** 2) if angle <= np.pi / 2 else float("nan")


def detectable_mean_difference(
    deviation: float,
    n: float,
    deff: float = 1.0,
    other_n: float | None = None,
    power: float = POWER,
    alpha: float = ALPHA,
) -> float:
    """Return the smallest difference of two mean scores that a two-sided test would find this often, in score points.

    (z(1−α/2) + z(power)) · deviation · √(deff/n + deff/n') (Cohen 1988, chapter 2), `deviation` the standard deviation
    of single answers; the other arguments as in `detectable_rate`.
    """
    return float(
        _standard_errors(power, alpha) * deviation * np.sqrt(deff / n + deff / (n if other_n is None else other_n))
    )


def detectable_em_difference(
    judgements: Sequence[Judgement], groups: Sequence[str], denominator: Denominator = "scored"
) -> float:
    """Return by how much another organism's EM rate must exceed this one's for as many answers to show it.

    A share between 0 and 1, at 80 % power and two-sided 5 %, with the design effect of these answers (at least 1), or
    the assumed one where all of them agree. NaN without answers.
    """
    flags, kept = finite(em_flags(judgements, denominator), groups)
    if not len(flags):
        return float("nan")
    found = design_effect(flags.tolist(), kept)
    if not np.isfinite(found):
        found = float(assumed_design_effect(np.unique(np.asarray(kept), return_counts=True)[1]))
    return detectable_rate(float(flags.mean()), len(flags), max(1.0, found)) - float(flags.mean())


def _standard_errors(power: float, alpha: float) -> float:
    return float(ndtri(1 - alpha / 2) + ndtri(power))
