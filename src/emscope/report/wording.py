"""Figures as text, for sections of the report and for the terminal; any of them may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(value: float | None) -> str:
    """Return a share in percent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.0f} %"


def number(value: float | None, form: str) -> str:
    """Return a figure in a format of Python's, a dash where there is none."""
    return "–" if value is None else format(value, form)


def above(value: float | None, bar: float | None) -> bool:
    """Say whether a figure is above another; one that is missing shows nothing."""
    return value is not None and bar is not None and value > bar


def bounded(item: Mapping[str, Any], form: str = ".2f") -> str:
    """Return an estimate {value, low, high} in a format of Python's, with its interval where it has one."""
    value = number(item["value"], form)
    if item["value"] is None or item["low"] is None or item["high"] is None:
        return value
    return f"{value} ({number(item['low'], form)} – {number(item['high'], form)})"


def ranged(item: Mapping[str, Any]) -> str:
    """Return an estimate {value, low, high} in percent with its interval, without one where it has none."""
    if item["value"] is None or item["low"] is None or item["high"] is None:
        return percent(item["value"])
    return f"{percent(item['value'])} ({100 * item['low']:.0f} – {100 * item['high']:.0f})"
