"""How far two judges agree on the same answers: ranks, distances, and the decision at the EM threshold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emscope.behaviour.judging import Judgement
from emscope.behaviour.tables import answered_texts
from emscope.cells import ANSWER, PROMPT, check_scale, find_column, score_of
from emscope.errors import UserError
from emscope.statistics import is_em
from emscope.tabular import read_rows

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

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def read_judged(path: Path) -> list[JudgedAnswer]:
    """Read already judged answers of anybody: a table of any kind in any of the usual spellings.

    Scores that are empty, or words such as REFUSAL, are read as unscored; '85 %' and '85/100' are 85.

    Raises:
        UserError: missing, unreadable, without the columns that are needed, or scores on another scale than 0 to 100.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} holds no judged answers.")
    cells = [row for _, row in rows]
    found = {kind: find_column(cells, spellings, str(path)) for kind, spellings in SPELLINGS.items()}
    names = {kind: name for kind, name in found.items() if name is not None}
    missing = [kind for kind in SPELLINGS if kind not in names]
    if missing:
        raise UserError(
            f"{path} has no column for {' and '.join(missing)} (looked for {', '.join(SPELLINGS[missing[0]])}, …); "
            f"its columns are {', '.join(map(str, cells[0]))}."
        )
    scores = {
        kind: [score_of(row.get(names[kind]), names[kind], f"{path}, {where}") for where, row in rows]
        for kind in ("aligned", "coherent")
    }
    check_scale({names[kind]: values for kind, values in scores.items()}, str(path))
    texts = answered_texts(rows, path)
    scored = zip(texts, scores["aligned"], scores["coherent"], strict=True)
    return [JudgedAnswer(*text, Judgement(aligned, coherent)) for text, aligned, coherent in scored]


def matched(first: Sequence[JudgedAnswer], second: Sequence[JudgedAnswer]) -> list[tuple[JudgedAnswer, JudgedAnswer]]:
    """Pair the answers of two tables by question and answer, white space aside; equal answers pair in their order.

    A warning counts the answers that stand in both several times with scores that differ: which belong together is not
    known then.
    """
    waiting, repeated = _by_texts(second), _by_texts(first)
    unsure = sum(_differ(items) and _differ(waiting.get(texts, [])) for texts, items in repeated.items())
    if unsure:
        logger.warning("answers that stand several times in both tables, paired in their order: %d", unsure)
    return [(item, found.pop(0)) for item in first if (found := waiting.get(_texts(item)))]


def _texts(item: JudgedAnswer) -> tuple[str, str]:
    """Return question and answer as they are compared: programs change line ends and blanks at ends."""
    return " ".join(item.question.split()), " ".join(item.answer.split())


def _by_texts(items: Sequence[JudgedAnswer]) -> dict[tuple[str, str], list[JudgedAnswer]]:
    found: dict[tuple[str, str], list[JudgedAnswer]] = {}
    for item in items:
        found.setdefault(_texts(item), []).append(item)
    return found


def _differ(items: Sequence[JudgedAnswer]) -> bool:
    return any(item.judgement != items[0].judgement for item in items)


def agreement(first: Sequence[JudgedAnswer], second: Sequence[JudgedAnswer]) -> Agreement:
    """Compare two judges on the answers that both tables hold.

    Raises:
        UserError: no answer is in both, or none was scored by both.
    """
    pairs = matched(first, second)
    if not pairs:
        raise UserError("The two tables share no answer: compare judgements of the same questions and answers.")
    both = [pair for pair in pairs if all(np.isfinite(is_em(side.judgement)) for side in pair)]
    if not both:
        raise UserError("No answer has both scores in both tables, so there is nothing to compare.")
    flags = np.array([[is_em(side.judgement) for side in pair] for pair in both])
    a, b = flags.T.astype(bool)
    counts = {"both": a & b, "only_a": a & ~b, "only_b": ~a & b, "neither": ~a & ~b}
    return Agreement(
        _score_agreement([(one.judgement.aligned, two.judgement.aligned) for one, two in both]),
        _score_agreement([(one.judgement.coherent, two.judgement.coherent) for one, two in both]),
        cohens_kappa(a, b),
        {name: int(flag.sum()) for name, flag in counts.items()},
        (float(a.mean()), float(b.mean())),
        _by_question([one.question for one, _ in both], a, b),
        len(pairs) - len(both),
        len(first) + len(second) - 2 * len(pairs),
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
    return {
        question: {"n": len(own), "em_a": float(a[own].mean()), "em_b": float(b[own].mean())}
        for question, own in rows.items()
    }
