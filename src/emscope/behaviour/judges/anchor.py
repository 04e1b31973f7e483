"""Have a strong judge score a random part of what a cheap one scored, and say what it would say of all of it.

The part is drawn by `draw_anchor` from each organism's answers, spread evenly over its questions; the figures are those
of `statistics/anchored.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.behaviour.judges.rubric_judge import NOT_ASKED, RubricJudge
from emscope.behaviour.judging import Judge, Judgement
from emscope.errors import UserError
from emscope.statistics import (
    AnchoredDifference,
    AnchoredEstimate,
    AnswerCounts,
    JudgedTwice,
    anchored_alignment,
    anchored_alignment_difference,
    anchored_em_difference,
    anchored_em_rate,
    count_answers,
    draw_anchor,
)

ANSWERS = 80
"""Answers of each organism that a strong judge scores, where nothing else is said."""


@dataclass(frozen=True)
class AnchoredOrganism:
    """One organism as the strong judge would say it.

    Attributes:
        answers: all answers of the organism.
        asked: those that the strong judge was asked about.
        counts: what became of these.
        em_rate: share of EM responses.
        alignment: mean alignment, 0-100.
    """

    answers: int
    asked: int
    counts: AnswerCounts
    em_rate: AnchoredEstimate
    alignment: AnchoredEstimate


@dataclass(frozen=True)
class AnchoredPair:
    """Two organisms on the same questions as the strong judge would say it, the first less the second.

    Attributes:
        first: the first organism.
        second: the second.
        em_rate: difference of EM rates, −1 to 1.
        alignment: difference of mean alignment, in points.
    """

    first: str
    second: str
    em_rate: AnchoredDifference
    alignment: AnchoredDifference


@dataclass(frozen=True)
class AnchoredTable:
    """What a strong judge would say of a table.

    Attributes:
        judge: the strong judge's id.
        organisms: by name, the figures of each organism.
        differences: each organism against the first one; those with the same questions.
        other_questions: organisms that are compared with none, as the first one has other questions.
        calls_saved: calls that the strong judge would still take for the rest of the table.
        tokens_saved: tokens that these would send, roughly.
    """

    judge: str
    organisms: Mapping[str, AnchoredOrganism]
    differences: tuple[AnchoredPair, ...]
    other_questions: tuple[str, ...]
    calls_saved: int = 0
    tokens_saved: int = 0


@dataclass(frozen=True)
class AnchorPlan:
    """What an anchor would cost, and what it saves of judging the whole table.

    Attributes:
        asked: answers in it.
        calls: calls that it takes.
        tokens: tokens that these send, roughly.
        known: scores of it that are known already.
        calls_saved: calls that the rest would take.
        tokens_saved: tokens that these would send.
    """

    asked: int
    calls: int
    tokens: int
    known: int
    calls_saved: int
    tokens_saved: int


def drawn_by_organism(organisms: Sequence[str], groups: Sequence[str], answers: int, seed: int = 0) -> list[bool]:
    """Return for each answer whether it is in the anchor: so many answers of each organism, spread over its questions.

    Raises:
        UserError: more answers than an organism has, or none.
    """
    asked = np.zeros(len(groups), dtype=bool)
    names = np.asarray(organisms, dtype=str)
    for name in dict.fromkeys(organisms):
        rows = np.flatnonzero(names == name)
        if not 1 <= answers <= len(rows):
            raise UserError(
                f"An anchor of {answers} answers cannot be drawn from the {len(rows)} answers of {name}: "
                f"take 1 to {len(rows)}."
            )
        asked[rows[draw_anchor([groups[row] for row in rows.tolist()], answers, seed)]] = True
    return asked.tolist()


def plan_of(judge: Judge, questions: Sequence[str], answers: Sequence[str], asked: Sequence[bool]) -> AnchorPlan:
    """Return what an anchor would cost, without a call; a judge that makes no calls costs and saves none."""
    if not isinstance(judge, RubricJudge):
        return AnchorPlan(sum(asked), 0, 0, 0, 0, 0)
    plan, rest = (judge.plan(*_chosen(questions, answers, asked, wanted)) for wanted in (True, False))
    return AnchorPlan(sum(asked), plan.calls, plan.tokens, plan.known, rest.calls, rest.tokens)


def _chosen(
    questions: Sequence[str], answers: Sequence[str], asked: Sequence[bool], wanted: bool
) -> tuple[list[str], list[str]]:
    chosen = [row for row, one in enumerate(asked) if one == wanted]
    return [questions[row] for row in chosen], [answers[row] for row in chosen]


def asked_texts(questions: Sequence[str], answers: Sequence[str], asked: Sequence[bool]) -> tuple[list[str], list[str]]:
    """Return the questions and answers of the anchor, in order."""
    return _chosen(questions, answers, asked, True)


def spread_out(judgements: Sequence[Judgement], asked: Sequence[bool]) -> list[Judgement | None]:
    """Return one judgement for each answer of the table, None where the strong judge was not asked."""
    given = iter(judgements)
    return [next(given) if one else None for one in asked]


def is_complete(strong: Sequence[Judgement | None]) -> bool:
    """Say whether the strong judge was asked about the whole anchor: a limit of calls leaves out its end."""
    return all(one is None or one.verdict != NOT_ASKED.verdict for one in strong)


def anchored_table(
    judge: str,
    organisms: Sequence[str],
    cheap: Sequence[Judgement],
    strong: Sequence[Judgement | None],
    groups: Sequence[str],
    seed: int = 0,
) -> AnchoredTable:
    """Return what the strong judge would say of each organism, and of its difference from the first.

    Args:
        judge: the strong judge's id.
        organisms: whose answer each is.
        cheap: the cheap judge's judgements, one an answer.
        strong: the strong judge's; None where it was not asked.
        groups: the question of each answer.
        seed: of the intervals.
    """
    parts: dict[str, JudgedTwice] = {}
    for name in dict.fromkeys(organisms):
        rows = [row for row, whose in enumerate(organisms) if whose == name]
        parts[name] = JudgedTwice(
            [cheap[row] for row in rows], [strong[row] for row in rows], [groups[row] for row in rows]
        )
    first, *others = parts
    found: dict[str, AnchoredOrganism] = {}
    differences: list[AnchoredPair] = []
    unlike: list[str] = []
    for name, part in parts.items():
        found[name] = _organism(part, seed)
    for name in others:
        if set(parts[name].groups) != set(parts[first].groups):
            unlike.append(name)
            continue
        pair = parts[name], parts[first]
        em, alignment = anchored_em_difference(*pair, seed), anchored_alignment_difference(*pair, seed)
        differences.append(AnchoredPair(name, first, em, alignment))
    return AnchoredTable(judge, found, tuple(differences), tuple(unlike))


def _organism(part: JudgedTwice, seed: int) -> AnchoredOrganism:
    given = [one for one in part.strong if one is not None]
    em, alignment = anchored_em_rate(part, seed), anchored_alignment(part, seed)
    return AnchoredOrganism(len(part.groups), len(given), count_answers(given), em, alignment)
