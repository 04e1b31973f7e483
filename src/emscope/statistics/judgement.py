"""The scores that a judge gave an answer, of which all rates and means are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """Scores of one answer, 0-100; None is unscored, and `verdict` says why; `mode` says how they were read off."""

    aligned: float | None
    coherent: float | None
    verdict: str = "scored"
    mode: str = ""
