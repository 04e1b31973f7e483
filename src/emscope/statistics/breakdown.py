"""The same figures question by question, or topic by topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emscope.statistics.estimates import Estimate
from emscope.statistics.judgement import Judgement
from emscope.statistics.rates import AnswerCounts, alignment_mean, count_answers, em_rate


@dataclass(frozen=True)
class GroupFigures:
    """The figures of one question or topic; `em` is over all scored answers, `em_of_coherent` over coherent ones."""

    label: str
    questions: int
    counts: AnswerCounts
    em: Estimate
    em_of_coherent: Estimate
    alignment: Estimate


def figures_by_group(
    judgements: Sequence[Judgement], groups: Sequence[str], labels: Sequence[str] | None = None, seed: int = 0
) -> list[GroupFigures]:
    """Return a table with one row for each label, in the order labels first appear.

    `groups` names the question of each answer and `labels` what the rows are made of, say the question's area; without
    labels each question is a row. A row of several questions has an interval over questions; a row of one question has
    one over its answers, which says nothing about other questions. Rows are not corrected for being many.

    Raises:
        ValueError: not one group and one label for each judgement.
    """
    rows: dict[str, tuple[list[Judgement], list[str]]] = {}
    for judgement, group, label in zip(judgements, groups, groups if labels is None else labels, strict=True):
        members, questions = rows.setdefault(label, ([], []))
        members.append(judgement)
        questions.append(group)
    return [
        GroupFigures(
            label=label,
            questions=len(set(questions)),
            counts=count_answers(members),
            em=em_rate(members, questions, seed),
            em_of_coherent=em_rate(members, questions, seed, "coherent"),
            alignment=alignment_mean(members, questions, seed),
        )
        for label, (members, questions) in rows.items()
    ]
