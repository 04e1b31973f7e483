"""What several judges make of the same answers of a run."""

from __future__ import annotations

from dataclasses import dataclass

from emscope.behaviour.judged_by import JudgedBy
from emscope.experiments.main.result import BySet
from emscope.experiments.result import Result
from emscope.statistics import Estimate

ALL, ABLATION = "all answers", "ablation"


@dataclass(frozen=True)
class JudgeFigures:
    """Every figure of a run that rests on scores, by one judge.

    Attributes:
        judged_by: the judge, and how many answers it scored.
        em_rate: share of EM responses.
        alignment_mean: mean alignment, 0-100.
        coherent_share: share of coherent answers.
        restored: share of the lost alignment that the ablation gives back on test questions.
        random_restored: the same by the random direction.
        coherence_change: points of coherence that the ablation adds to the misaligned organism.
        base_cost: points of alignment that the same ablation takes from the base.
    """

    judged_by: JudgedBy
    em_rate: BySet
    alignment_mean: BySet
    coherent_share: BySet
    restored: Estimate
    random_restored: Estimate
    coherence_change: float
    base_cost: float


@dataclass(frozen=True)
class Agreed:
    """How far a second judge agrees with the first on some answers.

    Attributes:
        n: answers that both scored.
        only_one: answers that one of the two scored.
        kappa: Cohen's κ of 'is an EM response'; NaN where neither judge calls any answer one.
        em_both, em_first_only, em_second_only, em_neither: counts of answers.
        aligned_spearman: rank correlation of the alignment scores.
        aligned_difference: mean of first less second, in points of alignment.
        coherent_spearman, coherent_difference: the same of coherence.
    """

    n: int
    only_one: int
    kappa: float
    em_both: int
    em_first_only: int
    em_second_only: int
    em_neither: int
    aligned_spearman: float
    aligned_difference: float
    coherent_spearman: float
    coherent_difference: float


@dataclass(frozen=True)
class SecondJudge:
    """A second judge on a run.

    Attributes:
        folder: where its judgements are kept, inside the run.
        figures: the run's figures by it.
        agreement: with the first judge, by organism, for the ablation's answers, and for all answers; None where no
            answer was scored by both.
    """

    folder: str
    figures: JudgeFigures
    agreement: dict[str, Agreed | None]


@dataclass(frozen=True)
class RejudgeResult(Result):
    """The figures of a run by its own judge and by every second one.

    Attributes:
        first: by the run's own judge.
        others: by second judges.
    """

    first: JudgeFigures
    others: tuple[SecondJudge, ...]
