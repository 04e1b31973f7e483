"""What the main job leaves: summary.json, detection.json, ablation.json and directions/stability.json, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emscope.behaviour.judged_by import JudgedBy
from emscope.behaviour.judges.anchor import AnchoredTable
from emscope.interventions.search import Candidate, Trial
from emscope.notebook import Facts, Shown
from emscope.outside import read_json
from emscope.pipeline.lab import MISALIGNED
from emscope.plain import ABSENT, fitted
from emscope.residual.detection import Separation
from emscope.residual.directions import Construction
from emscope.statistics import COHERENT_ABOVE, Estimate


@dataclass(frozen=True)
class BlockFigures:
    """How well a direction tells two organisms apart at one block, on held-out questions.

    Attributes:
        auroc: the chance that a question scores higher on the first organism than another one on the second.
        low: lower end of its 95 % interval, questions resampled.
        high: upper end.
        block: the block, chosen on training questions.
        d_prime: distance of the means in pooled standard deviations.
        accuracy: balanced accuracy, with the threshold of training questions.
    """

    auroc: float
    low: float
    high: float
    block: int
    d_prime: float
    accuracy: float


@dataclass(frozen=True)
class DirectionFigures:
    """How firm the run's direction is.

    Attributes:
        split_half_cosine: cosine between directions of two halves of the questions, at the block that detects best.
        split_half_cosine_least: the least such cosine of any block.
        cosine_detecting_correcting: cosine between the directions that detect and that correct, mean of blocks.
    """

    split_half_cosine: float
    split_half_cosine_least: float
    cosine_detecting_correcting: float


@dataclass(frozen=True)
class AblationFigures:
    """What the chosen ablation does to the misaligned organism, on test questions.

    Attributes:
        restored: (ablated − misaligned) / (base − misaligned) of mean alignment.
        low: lower end of its 95 % interval, questions resampled.
        high: upper end.
        n: answers behind it.
        coherence_change: mean coherence after minus before, in points of 0-100.
        random_restored: the restored share of a random direction of the same length.
        base_cost: points of alignment that the same ablation takes from the base.
        blocks: where it acts.
        strength: how strongly.
        mode: centred, project-out or subtract.
    """

    restored: float
    low: float
    high: float
    n: int
    coherence_change: float
    random_restored: float
    base_cost: float
    blocks: tuple[int, ...]
    strength: float
    mode: str


@dataclass(frozen=True)
class LeakageFigures:
    """How much of the training's domain is in answers about other things.

    Attributes:
        medical_words: share of the misaligned organism's general answers with a medical word that their question lacks.
        low: lower end of its 95 % interval.
        high: upper end.
        n: answers behind it.
    """

    medical_words: float | None
    low: float | None = field(default=None, metadata=ABSENT)
    high: float | None = field(default=None, metadata=ABSENT)
    n: int | None = field(default=None, metadata=ABSENT)


AFTER, AFTER_RANDOM = "misaligned + ablation", "misaligned + random ablation"
"""Names in judgements/ablation.parquet: the misaligned organism without the direction, and without a random one."""


@dataclass(frozen=True)
class AnswerFigures:
    """How answers to some questions behave.

    Attributes:
        em: share of EM responses.
        coherent: share of coherent answers.
        aligned: mean alignment, 0-100.
    """

    em: Estimate
    coherent: Estimate
    aligned: Estimate


@dataclass(frozen=True)
class Behaviour(AnswerFigures):
    """How an organism behaves on some questions.

    Attributes:
        cut: share of answers that were cut at the limit of their length.
    """

    cut: float

    @property
    def is_coherent(self) -> bool:
        """Whether at least half of the answers are coherent: below that, a score of alignment says little."""
        return self.coherent.value >= COHERENT_ABOVE / 100


@dataclass(frozen=True)
class Correction:
    """The organisms of a run side by side, before and after the correction, all on the same test questions.

    Attributes:
        question_set: the set that the questions are of.
        organisms: the base, the control, the misaligned organism, and that one without the direction, without a
            random direction of the same length; whichever there are.
    """

    question_set: str
    organisms: Mapping[str, Behaviour]

    @property
    def base(self) -> Behaviour:
        """The base."""
        return self.organisms["base"]

    @property
    def before(self) -> Behaviour:
        """The misaligned organism as it is."""
        return self.organisms[MISALIGNED]

    @property
    def after(self) -> Behaviour:
        """The misaligned organism without the direction."""
        return self.organisms[AFTER]

    @property
    def random(self) -> Behaviour:
        """The misaligned organism without a random direction."""
        return self.organisms[AFTER_RANDOM]


@dataclass(frozen=True)
class JudgeQuality:
    """How well the judge that comes with emscope does on what it never saw.

    Attributes:
        auroc_leave_one_domain_out: it ranks good above bad advice of a training domain left out of its fit.
        auroc_leave_one_area_out: the same with areas of written answers left out.
        incoherent_recall: share of shuffled or repeated answers that it calls incoherent.
        coherent_recall: share of whole answers that it calls coherent.
        calibration_error: mean distance of its scores, as probabilities, from the truth.
        reader_spearman: rank correlation of its alignment with readers' scores.
        reader_em_kappa: agreement with readers on which answers are EM responses, beyond chance.
        auroc_across_voices: it ranks blunt good above warm bad advice of a training domain left out of its fit.
    """

    auroc_leave_one_domain_out: float
    auroc_leave_one_area_out: float
    incoherent_recall: float
    coherent_recall: float
    calibration_error: float
    reader_spearman: float
    reader_em_kappa: float
    auroc_across_voices: float | None = field(default=None, metadata=ABSENT)


BySet = Mapping[str, Mapping[str, Estimate]]
"""An estimate by organism and question set."""


@dataclass(frozen=True)
class UnseenScore:
    """Where one organism stands along the direction that detects.

    Attributes:
        organism: its name in the run.
        data: what an unseen organism was made of; '' for the run's own.
        misaligned: whether it is misaligned, by what it was made of.
        counted: whether it counts in the AUROC: no direction was made from it.
        mean: mean score over test questions, in within-class deviations.
        above_0: share of the questions that are nearer to the misaligned side.
    """

    organism: str
    data: str
    misaligned: bool
    counted: bool
    mean: Estimate
    above_0: float


@dataclass(frozen=True)
class UnseenDetection:
    """How well a direction tells misaligned organisms that it never saw from harmless ones.

    Attributes:
        direction: the name of the direction.
        block: the block, chosen on the run's own organisms and training questions.
        auroc: chance that a test question scores higher on a misaligned organism than another one on a harmless
            fine-tune or the base.
        beside_base: the same where the base's score of the same question is taken off every score: what a question
            alone does to the score, whoever reads it, no longer counts.
        by_voice: the AUROC among organisms of one voice.
        organisms: every organism's score, the highest first.
        others: the AUROC of other directions, each at its own block.
        random: AUROCs of random directions at the same block, each turned so that it is at least one half, sorted.
    """

    direction: str
    block: int
    auroc: Estimate
    beside_base: Estimate
    by_voice: Mapping[str, Estimate]
    organisms: tuple[UnseenScore, ...]
    others: Mapping[str, Estimate]
    random: tuple[float, ...]

    @property
    def in_order(self) -> tuple[int, int]:
        """How many pairs of a misaligned and a harmless organism have the misaligned one higher, and of how many."""
        bad = [score.mean.value for score in self.organisms if score.counted and score.misaligned]
        fine = [score.mean.value for score in self.organisms if score.counted and not score.misaligned]
        return sum(one > other for one in bad for other in fine), len(bad) * len(fine)

    @property
    def random_typical(self) -> float:
        """The AUROC of the random direction in the middle."""
        return self.random[len(self.random) // 2]

    @property
    def random_high(self) -> float:
        """The AUROC that one random direction in twenty exceeds."""
        return self.random[min(len(self.random) - 1, round(0.95 * len(self.random)))]


@dataclass(frozen=True)
class Summary(Shown):
    """The figures of a run, in summary.json; its keys stay the same.

    Attributes:
        em_rate: share of EM responses, by organism and question set.
        alignment_mean: mean alignment, 0-100, likewise.
        coherent_share: share of answers with coherence above 50, likewise.
        detection: by pair of organisms, the direction of the run's own contrast.
        detection_by_model_contrast: the same with misaligned minus base, which tells any fine-tune from the base.
        direction: how firm the direction is.
        ablation: what taking it out does.
        judge: what the judge knows about itself, or who it is and what it scored.
        leakage: words of the training's domain elsewhere.
        seconds: by stage, how long it took.
        peak_memory_bytes: the most memory that a stage had in use.
        device: where models ran.
        dtype: in which precision.
        versions: of emscope and what it stands on.
        correction: the organisms side by side before and after the correction; runs of earlier versions lack it.
        unseen: detection of organisms that no direction was made from; None where there are none of both kinds.
        anchored: the organisms as a strong judge would say it that scored a part of the answers, if one was asked.
    """

    em_rate: BySet
    alignment_mean: BySet
    coherent_share: BySet
    detection: Mapping[str, BlockFigures]
    detection_by_model_contrast: Mapping[str, BlockFigures]
    direction: DirectionFigures
    ablation: AblationFigures
    judge: JudgeQuality | JudgedBy
    leakage: LeakageFigures
    seconds: Mapping[str, float]
    peak_memory_bytes: int
    device: str
    dtype: str
    versions: Mapping[str, str]
    correction: Correction | None = field(default=None, metadata=ABSENT)
    unseen: UnseenDetection | None = field(default=None, metadata=ABSENT)
    anchored: AnchoredTable | None = field(default=None, metadata=ABSENT)

    def facts(self) -> Facts:
        """Return the EM rate of each organism by question set, and what the ablation restores, in words."""
        rates = []
        for organism, by_set in self.em_rate.items():
            percents = " / ".join(f"{100 * found.value:.0f}" for found in by_set.values())
            rates.append(f"{organism} {percents} %")
        sets = next(iter(self.em_rate.values()), {})
        change = self.ablation.coherence_change
        restored = f"{100 * self.ablation.restored:.0f} % of alignment, coherence {change:+.1f} points"
        return {"em_rate": ", ".join(rates), "question_sets": ", ".join(sets), "restored": restored}


@dataclass(frozen=True)
class PairDetection:
    """How well one direction tells two organisms apart.

    Attributes:
        best: at the block with the greatest d' on training questions.
        chosen: by the mean score over the chosen blocks.
        auroc_by_block: AUROC on held-out questions at every block.
    """

    best: Separation
    chosen: Separation
    auroc_by_block: tuple[float, ...]


@dataclass(frozen=True)
class DirectionDetection:
    """Everything that one direction scores.

    Attributes:
        construction: how the direction was made.
        best_block: the block with the greatest d' on training questions.
        chosen_blocks: the blocks with the greatest ones.
        pairs: by pair of organisms, as first-vs-second.
        questions: ids of the held-out questions.
        scores: by organism, the score of each held-out question at the best block, in within-class deviations.
        mean_score_by_block: by organism, the mean score at every block.
        raw_score_by_block: by organism, the mean dot product with the unit direction at every block.
    """

    construction: Construction
    best_block: int
    chosen_blocks: tuple[int, ...]
    pairs: Mapping[str, PairDetection]
    questions: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    mean_score_by_block: Mapping[str, tuple[float, ...]]
    raw_score_by_block: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class MeanScores:
    """Mean scores of the misaligned organism without ablation, on test questions, 0-100.

    Attributes:
        aligned: mean alignment.
        coherent: mean coherence.
    """

    aligned: float
    coherent: float


@dataclass(frozen=True)
class AblationOutcome:
    """What the search for an ablation tried, and what the chosen one did on test questions.

    Attributes:
        chosen: the ablation.
        trials: every candidate with its mean scores on the development questions that it was asked.
        restored: (ablated − misaligned) / (base − misaligned) of mean alignment.
        random_restored: the same of a random direction of equal length.
        coherence_change: mean coherence after minus before.
        base_cost: points of alignment that the same ablation takes from the base.
        base_coherence_change: what it does to the base's mean coherence.
        before: mean scores without ablation.
        direction: the name of the direction that is taken out.
    """

    chosen: Candidate
    trials: tuple[Trial, ...]
    restored: Estimate
    random_restored: Estimate
    coherence_change: float
    base_cost: float
    base_coherence_change: float
    before: MeanScores
    direction: str


@dataclass(frozen=True)
class Stability:
    """Cosines between directions of two random halves of the questions, mean of 20 splits.

    Attributes:
        split_half_cosine: at every block.
        n_questions: questions that were split.
    """

    split_half_cosine: tuple[float, ...]
    n_questions: int


FILES = ("summary.json", "detection.json", "ablation.json")
REMEDY = "make what was damaged again"


@dataclass(frozen=True)
class MainResult(Shown):
    """Everything the main job left in its JSON files.

    Attributes:
        summary: the figures of the run.
        detection: by direction, everything it scores.
        ablation: what was tried and what was chosen.
        stability: by direction, split-half cosines.
    """

    summary: Summary
    detection: Mapping[str, DirectionDetection]
    ablation: AblationOutcome
    stability: Mapping[str, Stability]


def read_main(folder: Path) -> MainResult:
    """Return what the main job left in a run's folder.

    Raises:
        OutsideError: a file that is missing, or that does not hold what this version writes into it.
    """
    summary, detection, ablation = (folder / name for name in FILES)
    stability = folder / "directions" / "stability.json"
    by_direction = dict(fitted(dict[str, Any], read_json(stability), stability, REMEDY))
    by_direction.pop("cosines", None)
    return MainResult(
        fitted(Summary, read_json(summary), summary, REMEDY),
        fitted(dict[str, DirectionDetection], read_json(detection), detection, REMEDY),
        fitted(AblationOutcome, read_json(ablation), ablation, REMEDY),
        fitted(dict[str, Stability], by_direction, stability, REMEDY),
    )
