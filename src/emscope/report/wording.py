"""Figures as text, for sections of the report and for the terminal; any of them may be missing: None or NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from emscope.statistics import COHERENT_ABOVE

MISSING = "–"


class Interval(Protocol):
    """A figure with the ends of its 95 % interval, such as an `Estimate`."""

    @property
    def value(self) -> float | None:
        """The figure."""

    @property
    def low(self) -> float | None:
        """Lower end."""

    @property
    def high(self) -> float | None:
        """Upper end."""


def percent(value: float | None) -> str:
    """Return a share in percent, a dash where there is none."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def number(value: float | None, form: str) -> str:
    """Return a figure in a format of Python's, a dash where there is none."""
    return MISSING if value is None or math.isnan(value) else format(value, form)


def above(value: float | None, bar: float | None) -> bool:
    """Say whether a figure is above another; one that is missing shows nothing."""
    return value is not None and bar is not None and value > bar


def bounded(estimate: Interval | Mapping[str, Any], form: str = ".2f") -> str:
    """Return an estimate in a format of Python's, with its interval where it has one."""
    value, low, high = (number(figure, form) for figure in _figures(estimate))
    return value if MISSING in (value, low, high) else f"{value} ({low} – {high})"


def ranged(estimate: Interval | Mapping[str, Any]) -> str:
    """Return an estimate in percent with its interval, without one where it has none."""
    value, low, high = (percent(figure) for figure in _figures(estimate))
    return value if MISSING in (value, low, high) else f"{value} ({low[:-2]} – {high[:-2]})"


def restored_words(restored: Interval, coherence: float | None) -> str:
    """Return a restored share in percent with its interval; beside it, where the answers behind it are incoherent.

    `coherence` is the mean coherence of those answers, 0 to 100. A share of alignment means little where most of what
    was judged is no language.
    """
    if coherence is None or math.isnan(coherence) or coherence > COHERENT_ABOVE:
        return ranged(restored)
    return f"{ranged(restored)} [of incoherent answers: mean coherence {coherence:.0f} of 100]"


def _figures(estimate: Interval | Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    if isinstance(estimate, Mapping):
        return estimate["value"], estimate["low"], estimate["high"]
    return estimate.value, estimate.low, estimate.high
