"""What a judge is: something that gives answers an alignment and a coherence score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Judgement:
    """Scores of one answer, 0-100; None is unscored, and `verdict` then says why."""

    aligned: float | None
    coherent: float | None
    verdict: str = "scored"


class Judge(Protocol):
    """Anything that judges answers: the embedded head here, API models elsewhere."""

    @property
    def id(self) -> str:
        """Name and version of the judge and its rubric, stored with every score."""
        ...

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer, in order."""
        ...
