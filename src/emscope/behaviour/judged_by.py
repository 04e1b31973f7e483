"""Who judged a number of answers, how the scores were read, and how many answers got none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from emscope.behaviour.tables import JudgedResponse
from emscope.statistics import count_answers


@dataclass(frozen=True)
class JudgedBy:
    """Who judged answers, and what came of it.

    Attributes:
        judges: the judges' ids; more than one where tables of several judges were put together.
        answers: all of them.
        scored: those with both scores.
        refusals: those that the rubric calls a refusal.
        code: those that the rubric calls program code.
        unscored: all others without a score.
        modes: by how scores were read (head, logprobs, reply, logits, digits), how many answers.
        reasons: by reason, how many answers are unscored.
    """

    judges: tuple[str, ...]
    answers: int
    scored: int
    refusals: int
    code: int
    unscored: int
    modes: dict[str, int]
    reasons: dict[str, int]

    @property
    def name(self) -> str:
        """The judges in words."""
        return " and ".join(self.judges) or "nobody"

    def __str__(self) -> str:
        """Return the counts as a sentence."""
        ways = [f"{mode} {n}" for mode, n in self.modes.items()]
        read = f" Scores were read in {len(ways)} ways ({', '.join(ways)}) and are not of one scale." * (len(ways) > 1)
        why = [f"{n} times: {reason}" for reason, n in list(self.reasons.items())[:3]]
        reasons = f" ({'; '.join(why)})" if why else ""
        return (
            f"Judged by {self.name}: of {self.answers} answers {self.scored} scored, {self.refusals} refusals, "
            f"{self.code} code, {self.unscored} unscored{reasons}.{read}"
        )


def judged_by(rows: Sequence[JudgedResponse]) -> JudgedBy:
    """Return who judged these answers."""
    counts = count_answers([row.judgement for row in rows])
    modes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in rows:
        modes.update(filter(None, row.mode.split("+")))
        if row.verdict not in ("scored", "refusal", "code") and (row.aligned is None or row.coherent is None):
            reasons[row.verdict] += 1
    return JudgedBy(
        tuple(dict.fromkeys(row.judge for row in rows)),
        counts.answers,
        counts.scored,
        counts.refusals,
        counts.code,
        counts.unscored,
        dict(modes.most_common()),
        dict(reasons.most_common()),
    )
