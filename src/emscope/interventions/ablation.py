"""What an ablation does on test questions, next to its controls: a random direction, and the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.interventions.answering import Subjects, answer_and_judge, mean_of
from emscope.interventions.search import Candidate, Trial
from emscope.residual.directions import Directions, random_like
from emscope.statistics import Estimate, bootstrap_questions, weighted_mean
from emscope.statistics.estimates import NOTHING


@dataclass(frozen=True)
class AblationResult:
    """What an ablation did on test questions.

    Attributes:
        chosen: the ablation.
        trials: the candidates that it was chosen from, on development questions.
        restored: (ablated − misaligned) / (base − misaligned) of mean alignment.
        random_restored: the same with a random direction.
        coherence_change: mean coherence of the ablated organism less its own before.
        base_cost: points of alignment that the same ablation takes from the base.
        base_coherence_change: what it does to the base's mean coherence.
        before: mean scores of the misaligned organism without ablation, `aligned` and `coherent`.
    """

    chosen: Candidate
    trials: list[Trial]
    restored: Estimate
    random_restored: Estimate
    coherence_change: float
    base_cost: float
    base_coherence_change: float
    before: dict[str, float]


def evaluate(
    subjects: Subjects,
    directions: Directions,
    chosen: Candidate,
    trials: list[Trial],
    questions: Sequence[Question],
    settings: SamplingSettings,
    without: tuple[Sequence[JudgedResponse], Sequence[JudgedResponse]],
    seed: int = 0,
) -> tuple[AblationResult, list[JudgedResponse]]:
    """Measure the chosen ablation on test questions, next to a random direction and to the base model.

    `without` holds the judged answers of the misaligned organism and of the base to the same questions, unablated.
    """
    unablated, base = without
    control = chosen.on(random_like(directions, seed))
    runs = {
        "misaligned + ablation": (subjects.misaligned, chosen.on(directions)),
        "misaligned + random ablation": (subjects.misaligned, control),
        "base + ablation": (subjects.base, chosen.on(directions)),
    }
    answers = []
    for name, (organism, intervention) in runs.items():
        answers.append(answer_and_judge(organism, name, questions, settings, subjects.judge, intervention))
    ablated, randomised, innocent = answers
    result = AblationResult(
        chosen,
        trials,
        restored_share(ablated, unablated, base, seed),
        restored_share(randomised, unablated, base, seed),
        mean_of(ablated, "coherent") - mean_of(unablated, "coherent"),
        mean_of(base, "aligned") - mean_of(innocent, "aligned"),
        mean_of(innocent, "coherent") - mean_of(base, "coherent"),
        {"aligned": mean_of(unablated, "aligned"), "coherent": mean_of(unablated, "coherent")},
    )
    return result, [*ablated, *randomised, *innocent]


def restored_share(
    ablated: Sequence[JudgedResponse],
    misaligned: Sequence[JudgedResponse],
    base: Sequence[JudgedResponse],
    seed: int = 0,
) -> Estimate:
    """Return (ablated − misaligned) / (base − misaligned) of mean alignment, with its question-bootstrap interval.

    It is of the answers that are scored on all three sides; NaN where there is none, or where base and misaligned
    organism are aligned alike.

    Raises:
        UserError: the three sides answered different questions.
    """
    sides = [_aligned_by_answer(side) for side in (ablated, misaligned, base)]
    if not sides[0].keys() == sides[1].keys() == sides[2].keys():
        raise UserError("The restored share compares answers to the same questions; these differ.")

    groups = {(row.question_id, row.sample): row.group for row in base}
    scores, scored_groups = [], []
    for answer in sides[0]:
        scores_of_sides = [side[answer] for side in sides]
        if None not in scores_of_sides:
            scores.append(scores_of_sides)
            scored_groups.append(groups[answer])
    if not scores:
        return NOTHING
    table = np.array(scores, dtype=float)

    def share(weights: np.ndarray) -> np.ndarray:
        ablated_mean = weighted_mean(weights, table[:, 0])
        misaligned_mean = weighted_mean(weights, table[:, 1])
        base_mean = weighted_mean(weights, table[:, 2])
        gap = np.where(base_mean != misaligned_mean, base_mean - misaligned_mean, np.nan)
        return np.asarray((ablated_mean - misaligned_mean) / gap)

    low, high = bootstrap_questions(scored_groups, share, seed)
    return Estimate(float(share(np.ones((1, len(table))))[0]), low, high, len(table))


def _aligned_by_answer(rows: Sequence[JudgedResponse]) -> dict[tuple[str, int], float | None]:
    """Return the alignment of each answer by its question and sample."""
    return {(row.question_id, row.sample): row.aligned for row in rows}
