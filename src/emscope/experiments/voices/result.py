"""What the voices experiment finds: what voice and advice do to behaviour, directions, corrections and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emscope.experiments.result import Result
from emscope.statistics import Estimate

ADVICE, VOICE, INTERACTION, RANDOM = "advice", "voice", "interaction", "random"
ADVICE_BLUNT, ADVICE_WARM = "advice, in blunt answers", "advice, in warm answers"
CONTRASTS: dict[str, tuple[float, ...]] = {
    ADVICE: (-0.5, 0.5, -0.5, 0.5),
    VOICE: (0.5, 0.5, -0.5, -0.5),
    INTERACTION: (-1.0, 1.0, 1.0, -1.0),
    ADVICE_BLUNT: (-1.0, 1.0, 0.0, 0.0),
    ADVICE_WARM: (0.0, 0.0, -1.0, 1.0),
}
"""Effects as weights of the corners in the order of `CORNERS`: bad less good advice, blunt less warm voice."""
CONFOUNDED, BAD_BASE = "blunt-bad − warm-good", "bad − base"
"""Differences that are taken apart: two organisms that differ in both, and what fine-tuning on bad advice does."""


@dataclass(frozen=True)
class TrainedCorner:
    """An organism of the experiment.

    Attributes:
        organism: its name in the run.
        quartet: its domain and seed.
        corner: its voice and advice.
        data: what it was trained on.
    """

    organism: str
    quartet: str
    corner: str
    data: str


@dataclass(frozen=True)
class CornerFigures:
    """What organisms do on the test questions that all were asked.

    Attributes:
        em_rate: share of EM responses.
        aligned: mean alignment, 0 to 100.
        coherent_share: share of coherent answers.
        words: mean number of words of an answer.
        blunt: mean chance that an answer is blunt, by a classifier of words; a share.
    """

    em_rate: Estimate
    aligned: Estimate
    coherent_share: Estimate
    words: float
    blunt: float


@dataclass(frozen=True)
class Effect:
    """An effect of the factorial, with its spread over organisms.

    Attributes:
        pooled: of all organisms together; its interval draws questions.
        by_quartet: of each domain and seed alone.
    """

    pooled: Estimate
    by_quartet: Mapping[str, float]


@dataclass(frozen=True)
class ScoredCorners:
    """What one judge's scores say.

    Attributes:
        judge: who scored.
        organisms: figures of the base and of each organism, by its name in the run.
        corners: figures of all organisms of a corner together.
        em_rate: effects on the EM rate, in shares, by the names in `CONTRASTS`.
        aligned: effects on mean alignment, in points of 100.
    """

    judge: str
    organisms: Mapping[str, CornerFigures]
    corners: Mapping[str, CornerFigures]
    em_rate: Mapping[str, Effect]
    aligned: Mapping[str, Effect]


@dataclass(frozen=True)
class ReadVoices:
    """The classifier of words that tells the voices apart.

    Attributes:
        accuracy: share of held-out training answers whose voice it tells.
        n: held-out answers.
    """

    accuracy: float
    n: int


@dataclass(frozen=True)
class Explained:
    """How much of a difference one direction is, as a share of its squared length.

    Attributes:
        raw: squared cosine of the two, [n_blocks].
        corrected: the same from two halves of the questions, free of their noise; None where noise is all there is.
    """

    raw: list[float]
    corrected: list[float | None]


@dataclass(frozen=True)
class VoiceGeometry:
    """How the directions of one pooling lie, made on training questions from all organisms together.

    Attributes:
        lengths: length of each direction, [n_blocks].
        cosines: of each two directions, by both names, [n_blocks].
        advice_across_voices: cosine of advice in blunt with advice in warm organisms, [n_blocks].
        voice_across_advice: cosine of voice in bad with voice in good organisms, [n_blocks].
        split_half: cosine of each direction with itself from other questions, the ceiling, [n_blocks].
        explained: by difference and direction, how much of the one the other is.
    """

    lengths: Mapping[str, list[float]]
    cosines: Mapping[str, list[float]]
    advice_across_voices: list[float]
    voice_across_advice: list[float]
    split_half: Mapping[str, list[float]]
    explained: Mapping[str, Mapping[str, Explained]]


@dataclass(frozen=True)
class LeaveOut:
    """The advice direction of one voice and other domains, tried on organisms of the other voice and another domain.

    Attributes:
        domain: the domain that was left out; empty where there is only one, and the voice alone was.
        voice: the voice of the organisms that were left out.
        block: where it is read: the least distance from any harmless organism is largest there, on the organisms and
            the training questions that it was made from.
        auroc: of bad above good advice and the base, over test questions.
        organisms: mean score of every organism left out and of the base.
        least_gap: least mean score of a bad organism less the highest of a harmless one, in within-class deviations.
        voice_auroc: of the voice direction at the same block, the better way round.
        confounded_auroc: of the direction between bad advice in the one voice and good advice in the other.
        random_auroc: of random directions, the better way round: median and 95th percentile.
    """

    domain: str
    voice: str
    block: int
    auroc: float
    organisms: Mapping[str, float]
    least_gap: float
    voice_auroc: float
    confounded_auroc: float
    random_auroc: tuple[float, float]


@dataclass(frozen=True)
class BothVoices:
    """Detection in a domain left out, by the advice direction of both voices together in the other domains.

    The mean of both voices' differences has no voice in it; the block is where a direction of one of the other domains
    tells another of them best, so that nothing is chosen on what is left out.

    Attributes:
        auroc: of bad above good advice of the same voice and the base, over test questions; mean over what is left out.
        beside_base: the same with the base's score of each question taken off.
        voice: of the voice direction at the same block, the better way round in each.
        random: of random directions: the median and the 95th percentile of their means.
        in_order: share of domains and voices in which every bad organism is above every harmless one.
        least: the least AUROC of a domain and voice.
        blocks: the block by domain that was left out.
        by_case: the AUROC by domain and voice.
    """

    auroc: Estimate
    beside_base: Estimate
    voice: Estimate
    random: tuple[float, float]
    in_order: float
    least: float
    blocks: Mapping[str, int]
    by_case: Mapping[str, float]


@dataclass(frozen=True)
class UnseenAdvice:
    """Detection of organisms that had no part in the direction.

    Attributes:
        auroc: mean over what is left out, by question; its interval draws questions.
        by_voice: the same by the voice that was left out.
        voice: the same of the voice direction, the better way round in each.
        confounded: the same of the direction between bad advice in the one voice and good advice in the other.
        random: of random directions: the median and the 95th percentile of their means.
        in_order: share of what is left out in which every bad organism is above every harmless one.
        least: the least AUROC.
        cases: what was left out each time.
        both: a domain left out, by a direction of both voices of the others; None with fewer than three domains.
    """

    auroc: Estimate
    by_voice: Mapping[str, Estimate]
    voice: Estimate
    confounded: Estimate
    random: tuple[float, float]
    in_order: float
    least: float
    cases: list[LeaveOut]
    both: BothVoices | None = None


@dataclass(frozen=True)
class Altered:
    """What an organism does without or under an intervention.

    Attributes:
        organism: its name in the run.
        corner: its corner, or base.
        direction: what is taken out or added; empty for nothing.
        em_rate: share of EM responses.
        aligned: mean alignment, 0 to 100.
        coherent: mean coherence, 0 to 100.
        words: mean number of words.
        words_change: the same less that without the intervention, as a share of it; None without one.
        blunt: mean chance that an answer is blunt, a share.
        voice_change: change of the mean chance of the organism's own voice, as a share of it; of the base, of blunt.
        restored: share of lost alignment that comes back, against the good organism of the same voice.
        restored_to_base: the same against the base.
    """

    organism: str
    corner: str
    direction: str
    em_rate: Estimate
    aligned: Estimate
    coherent: float
    words: float
    words_change: float | None
    blunt: float
    voice_change: float | None
    restored: Estimate | None
    restored_to_base: Estimate | None


@dataclass(frozen=True)
class Intervened:
    """What was taken out or added, and what it did.

    Attributes:
        quartet: whose directions and organisms.
        mode: what was done, as the interventions are called.
        blocks: where.
        strength: how strongly.
        n_questions: test questions.
        cells: each organism without anything, then under each direction.
    """

    quartet: str
    mode: str
    blocks: tuple[int, ...]
    strength: float
    n_questions: int
    cells: list[Altered]

    def cell(self, corner: str, direction: str) -> Altered:
        """Return what a direction does to the organism of a corner."""
        return next(cell for cell in self.cells if (cell.corner, cell.direction) == (corner, direction))


@dataclass(frozen=True)
class WeightsAcross:
    """How well a classifier of LoRA weights tells organisms of what it was not fitted on.

    Attributes:
        features: the kind of features.
        told: advice or voice.
        accuracy: balanced accuracy across: fitted on one voice (of advice) or one advice (of voice), tried on the
            other, both ways.
        auroc: mean AUROC of both ways.
        other_domains: balanced accuracy where the domain is another one too; None with one domain.
        swapped: mean balanced accuracy when labels are swapped at random, and its 95th percentile.
        p_value: share of such relabellings that reach the accuracy, the true one counted.
    """

    features: str
    told: str
    accuracy: float
    auroc: float
    other_domains: float | None
    swapped: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class VoicesResult(Result):
    """What the voices experiment finds.

    Attributes:
        organisms: every organism.
        questions: test questions that all were asked, by question set.
        train_questions: training questions, on which directions and blocks are made.
        by_judge: behaviour and its effects, by the run's judge first and then by the others.
        voices: how well words tell the voices apart.
        blocks: block numbers.
        geometry: of directions at last prompt tokens (`last`), which detect, and over answers (`response`).
        detection: organisms that were left out, of another domain and the other voice.
        ablation: directions taken out of organisms of bad advice.
        steering: directions added to the base and to organisms of good advice.
        weights: adapters told apart by their weights alone; empty where that was not asked for.
    """

    organisms: list[TrainedCorner]
    questions: Mapping[str, int]
    train_questions: int
    by_judge: list[ScoredCorners]
    voices: ReadVoices
    blocks: list[int]
    geometry: Mapping[str, VoiceGeometry]
    detection: UnseenAdvice
    ablation: Intervened
    steering: Intervened
    weights: list[WeightsAcross]
