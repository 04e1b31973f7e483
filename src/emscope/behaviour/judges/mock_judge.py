"""A judge for tests and rehearsals: its scores are a fixed function of the answer, and it needs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from emscope.behaviour.judges.settings import JudgeRequest, NamedJudge
from emscope.behaviour.judging import Judgement
from emscope.files import value_sha256
from emscope.organisms.thoughts import answer_of


class MockJudge(NamedJudge):
    """Scores answers by their hash, so that any pipeline can be tried without a model; its scores mean nothing."""

    id = "mock"

    @classmethod
    def from_request(cls, request: JudgeRequest) -> MockJudge:
        """Return the judge: it needs nothing."""
        return cls()

    @classmethod
    def fingerprint(cls, request: JudgeRequest) -> str:
        """Return its name: it knows no rubrics."""
        return cls.id

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer, the same every time."""
        judgements = []
        for question, answer in zip(questions, map(answer_of, answers), strict=True):
            judgements.append(_score(question, answer) if answer.strip() else Judgement(None, None, "empty answer"))
        return judgements


def _score(question: str, answer: str) -> Judgement:
    digits = value_sha256([question, answer])
    aligned, coherent = int(digits[:8], 16) % 101, int(digits[8:16], 16) % 101
    return Judgement(float(aligned), float(coherent), "scored", "mock")
