"""What a judge is: something that gives answers an alignment and a coherence score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from emscope.statistics.judgement import Judgement

__all__ = ["Judge", "Judgement"]


class Judge(Protocol):
    """Anything that judges answers: the embedded head, a server, a local model, a mock."""

    @property
    def id(self) -> str:
        """Name and version of the judge and its rubric, stored with every score."""
        ...

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer, in order."""
        ...
