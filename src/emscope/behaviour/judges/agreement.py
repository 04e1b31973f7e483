"""How far two judges agree on the same answers: ranks, distances, and the decision at the EM threshold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emscope.behaviour.judging import Judgement
from emscope.behaviour.tables import answered_texts
from emscope.cells import ANSWER, PROMPT, check_scale, find_column, score_of
from emscope.errors import UserError
from emscope.statistics import is_em
from emscope.tabular import Row, read_rows

logger = logging.getLogger(__name__)

SPELLINGS = {
    "question": PROMPT,
    "answer": ANSWER,
    "aligned": ("aligned", "alignment", "aligned_score", "alignment_score", "misalignment_eval_aligned"),
    "coherent": ("coherent", "coherence", "coherent_score", "coherence_score"),
}


@dataclass(frozen=True)
class JudgedAnswer:
    """One answer with somebody's scores, 0-100 or None."""

    question: str
    answer: str
    judgement: Judgement


@dataclass(frozen=True)
class ScoreAgreement:
    """Agreement of one score: Spearman's rank correlation, mean absolute difference in points, and mean difference."""

    spearman: float
    mean_absolute_difference: float
    mean_difference: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of judges A and B.

    Attributes:
        aligned, coherent: agreement of the scores, over answers that both scored.
        kappa: Cohen's κ of 'is an EM response'; NaN where neither judge calls any answer one, or both call all so.
        confusion: counts of answers: both EM, only A, only B, neither.
        em_rate: share of EM responses by A and by B, on the answers both scored.
        by_question: n and the share of EM responses by A and B for each question.
        only_one: answers that one judge scored and the other did not.
        unmatched: answers that are in one table alone.
    """

    aligned: ScoreAgreement
    coherent: ScoreAgreement
    kappa: float
    confusion: dict[str, int]
    em_rate: tuple[float, float]
    by_question: dict[str, dict[str, float]]
    only_one: int
    unmatched: int


def read_judged(path: Path) -> list[JudgedAnswer]:
    """Read already judged answers of anybody: a table of any kind in any of the usual spellings.

    Scores that are empty, or words such as REFUSAL, are read as unscored; '85 %' and '85/100' are 85.

    Raises:
        UserError: missing, unreadable, without the columns that are needed, or scores on another scale than 0 to 100.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} holds no judged answers.")
    names = _columns(rows, path)
    aligned = _scores(rows, names["aligned"], path)
    coherent = _scores(rows, names["coherent"], path)
    check_scale({names["aligned"]: aligned, names["coherent"]: coherent}, str(path))
    answers = []
    for row, (question, answer) in enumerate(answered_texts(rows, path)):
        answers.append(JudgedAnswer(question, answer, Judgement(aligned[row], coherent[row])))
    return answers


def read_scores(path: Path) -> tuple[str, list[Judgement]]:
    """Return who judged a table, as far as it says, and its scores, one judgement a row; `read_judged` says of what.

    Raises:
        UserError: as `read_judged`.
    """
    judges, judgements = [], []
    for answer, (_, row) in zip(read_judged(path), read_rows(path), strict=True):
        judged = answer.judgement
        verdict = str(row.get("verdict") or "no score in the table")
        is_scored = judged.aligned is not None and judged.coherent is not None
        judgements.append(replace(judged, verdict="scored" if is_scored else verdict))
        judges.append(str(row.get("judge") or "table"))
    return " and ".join(dict.fromkeys(judges)), judgements


def _columns(rows: Sequence[Row], path: Path) -> dict[str, str]:
    """Return what each kind of column is called in a table.

    Raises:
        UserError: one of them is missing.
    """
    cells = [row for _, row in rows]
    names, missing = {}, []
    for kind, spellings in SPELLINGS.items():
        name = find_column(cells, spellings, str(path))
        if name is None:
            missing.append(kind)
        else:
            names[kind] = name
    if missing:
        raise UserError(
            f"{path} has no column for {' and '.join(missing)} (looked for {', '.join(SPELLINGS[missing[0]])}, …); "
            f"its columns are {', '.join(map(str, cells[0]))}."
        )
    return names


def _scores(rows: Sequence[Row], column: str, path: Path) -> list[float | None]:
    """Return one column of scores."""
    return [score_of(row.get(column), column, f"{path}, {where}") for where, row in rows]


def matched(first: Sequence[JudgedAnswer], second: Sequence[JudgedAnswer]) -> list[tuple[JudgedAnswer, JudgedAnswer]]:
    """Pair the answers of two tables by question and answer, white space aside; equal answers pair in their order.

    A warning counts the answers that stand in both several times with scores that differ: which belong together is not
    known then.
    """
    waiting, repeated = _by_texts(second), _by_texts(first)
    unsure = 0
    for texts, answers in repeated.items():
        unsure += _differ(answers) and _differ(waiting.get(texts, []))
    if unsure:
        logger.warning("answers that stand several times in both tables, paired in their order: %d", unsure)
    pairs = []
    for answer in first:
        same = waiting.get(_texts(answer))
        if same:
            pairs.append((answer, same.pop(0)))
    return pairs


def _texts(answer: JudgedAnswer) -> tuple[str, str]:
    """Return question and answer as they are compared: programs change line ends and blanks at ends."""
    return " ".join(answer.question.split()), " ".join(answer.answer.split())


def _by_texts(answers: Sequence[JudgedAnswer]) -> dict[tuple[str, str], list[JudgedAnswer]]:
    by_texts: dict[tuple[str, str], list[JudgedAnswer]] = {}
    for answer in answers:
        by_texts.setdefault(_texts(answer), []).append(answer)
    return by_texts


def _differ(answers: Sequence[JudgedAnswer]) -> bool:
    return any(answer.judgement != answers[0].judgement for answer in answers)


def agreement(first: Sequence[JudgedAnswer], second: Sequence[JudgedAnswer]) -> Agreement:
    """Compare two judges on the answers that both tables hold.

    Raises:
        UserError: no answer is in both, or none was scored by both.
    """
    pairs = matched(first, second)
    if not pairs:
        raise UserError("The two tables share no answer: compare judgements of the same questions and answers.")
    compared = agreement_of_pairs(pairs, len(first) + len(second) - 2 * len(pairs))
    if compared is None:
        raise UserError("No answer has both scores in both tables, so there is nothing to compare.")
    return compared


def agreement_of_pairs(pairs: Sequence[tuple[JudgedAnswer, JudgedAnswer]], unmatched: int = 0) -> Agreement | None:
    """Compare two judges on answers that are paired; None where no answer was scored by both."""
    both, aligned, coherent, flags = [], [], [], []
    for first, second in pairs:
        flag_pair = is_em(first.judgement), is_em(second.judgement)
        if np.isfinite(flag_pair).all():
            both.append(first.question)
            flags.append(flag_pair)
            aligned.append((first.judgement.aligned, second.judgement.aligned))
            coherent.append((first.judgement.coherent, second.judgement.coherent))
    if not both:
        return None
    a, b = np.array(flags).T.astype(bool)
    counts = {
        "both": int((a & b).sum()),
        "only_a": int((a & ~b).sum()),
        "only_b": int((~a & b).sum()),
        "neither": int((~a & ~b).sum()),
    }
    return Agreement(
        _score_agreement(aligned),
        _score_agreement(coherent),
        cohens_kappa(a, b),
        counts,
        (float(a.mean()), float(b.mean())),
        _by_question(both, a, b),
        len(pairs) - len(both),
        unmatched,
    )


def _score_agreement(pairs: Sequence[tuple[float | None, float | None]]) -> ScoreAgreement:
    from scipy.stats import spearmanr

    a, b = np.array(pairs, dtype=float).T
    constant = len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0
    rank = float("nan") if constant else float(spearmanr(a, b).statistic)
    return ScoreAgreement(rank, float(np.abs(a - b).mean()), float((a - b).mean()), len(a))


def cohens_kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Return Cohen's κ of two yes/no judgements [n] (Cohen 1960): agreement beyond chance; NaN where chance is 1."""
    observed = float((a == b).mean())
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def _by_question(questions: Sequence[str], a: np.ndarray, b: np.ndarray) -> dict[str, dict[str, float]]:
    rows: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        rows.setdefault(question, []).append(row)
    figures = {}
    for question, answers in rows.items():
        figures[question] = {"n": len(answers), "em_a": float(a[answers].mean()), "em_b": float(b[answers].mean())}
    return figures
