"""What the transfer experiment finds: how organisms' directions lie, and what each detects and corrects in others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emscope.experiments.result import Result
from emscope.plain import ABSENT
from emscope.statistics import Estimate

ANSWERS, PROMPTS = "response", "last"
"""The poolings: means of answers, whose directions correct, and last prompt tokens, whose directions detect."""
RANDOM = "random"
"""What random directions are called among the corrections."""


@dataclass(frozen=True)
class ComparedPair:
    """A misaligned organism and its control.

    Attributes:
        name: the pair's name: its data and seed.
        domain: what their data are about; empty where that was not said.
        seed: order of the rows and first values of the adapters.
        careless: name of the misaligned organism in the run.
        careful: name of the control organism in the run.
        data: what the pair is named after, where that is not its domain.
        made_of: what the two are made of, where that is not the built-in data of the domain.
    """

    name: str
    domain: str
    seed: int
    careless: str
    careful: str
    data: str
    made_of: tuple[str, ...]


@dataclass(frozen=True)
class QuestionCounts:
    """How many questions every organism answered.

    Attributes:
        train: training questions, on which directions, blocks and thresholds are made.
        test: test questions, on which they are tried.
    """

    train: int
    test: int


@dataclass(frozen=True)
class Behaviour:
    """What an organism does on all test questions.

    Attributes:
        em_rate: share of EM responses.
        aligned: mean alignment, 0 to 100.
        coherent_share: share of coherent answers.
    """

    em_rate: Estimate
    aligned: Estimate
    coherent_share: Estimate


@dataclass(frozen=True)
class CosineTable:
    """Cosine of each two pairs' directions, the mean over blocks, with its 95 % interval.

    Attributes:
        value: the cosines, [n_pairs][n_pairs].
        low: lower ends of the intervals, [n_pairs][n_pairs].
        high: upper ends of the intervals, [n_pairs][n_pairs].
    """

    value: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


@dataclass(frozen=True)
class CosineTableByBlock:
    """Cosine of each two pairs' directions at every block, with its 95 % interval.

    Attributes:
        value: the cosines, [n_pairs][n_pairs][n_blocks].
        low: lower ends of the intervals, [n_pairs][n_pairs][n_blocks].
        high: upper ends of the intervals, [n_pairs][n_pairs][n_blocks].
    """

    value: list[list[list[float]]]
    low: list[list[list[float]]]
    high: list[list[list[float]]]


@dataclass(frozen=True)
class DomainAngles:
    """Principal angles between the subspaces that the seeds of two domains span.

    Attributes:
        by_block: the angles in degrees, smallest first, [n_blocks][n_seeds].
        random: the same between random subspaces of the same size, [n_seeds].
    """

    by_block: list[list[float]]
    random: list[float]


@dataclass(frozen=True)
class Geometry:
    """How the pairs' directions of one pooling lie to each other.

    Attributes:
        names: the pairs, in the order of every table.
        cosine: cosines, means over blocks.
        by_block: cosines at every block.
        split_half: cosine of each direction with itself from other questions: the ceiling, [n_pairs][n_blocks].
        same_domain: mean cosine of pairs of one domain, [n_blocks]; None without any.
        other_domains: mean cosine of pairs of two domains, [n_blocks]; None without any.
        unknown_domains: mean cosine of pairs whose domains nobody said, [n_blocks]; None without any.
        references: mean cosines of what else organisms of two domains share, by name, [n_blocks]; None without any.
        component_share: share of the directions' squared length along their first principal component, [n_blocks].
        mean_with_component: cosine of their mean with that component, [n_blocks].
        angles: angles between domains of several seeds, by both names; empty with one seed a domain.
    """

    names: list[str]
    cosine: CosineTable
    by_block: CosineTableByBlock
    split_half: list[list[float]]
    same_domain: list[float] | None
    other_domains: list[float] | None
    unknown_domains: list[float] | None
    references: Mapping[str, list[float] | None]
    component_share: list[float]
    mean_with_component: list[float]
    angles: Mapping[str, DomainAngles]

    def of_kin(self, kind: str) -> list[float] | None:
        """Return the mean cosine by block of pairs that relate to each other in a way; None without any."""
        by_kin = {
            "same domain": self.same_domain,
            "other domain": self.other_domains,
            "unknown": self.unknown_domains,
        }
        return by_kin[kind]


@dataclass(frozen=True)
class AurocInterval:
    """An AUROC with its 95 % interval.

    Attributes:
        auroc: the AUROC, a share.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    auroc: float
    low: float
    high: float


@dataclass(frozen=True)
class RandomAtBlock:
    """What 200 random directions reach at one block on one pair.

    Attributes:
        auroc_p50: median of their AUROCs.
        auroc_p95: 95th percentile of their AUROCs.
        d_prime_p95: 95th percentile of their d′.
    """

    auroc_p50: float
    auroc_p95: float
    d_prime_p95: float


@dataclass(frozen=True)
class RandomByBlock:
    """What 200 random directions reach at every block on one pair.

    Attributes:
        auroc_p50_by_block: median of their AUROCs, [n_blocks].
        auroc_p95_by_block: 95th percentile of their AUROCs, [n_blocks].
        d_prime_p95_by_block: 95th percentile of their d′, [n_blocks].
    """

    auroc_p50_by_block: list[float]
    auroc_p95_by_block: list[float]
    d_prime_p95_by_block: list[float]

    def at(self, row: int) -> RandomAtBlock:
        """Return what they reach at one block, by its place."""
        return RandomAtBlock(self.auroc_p50_by_block[row], self.auroc_p95_by_block[row], self.d_prime_p95_by_block[row])


@dataclass(frozen=True)
class DetectionCell:
    """One direction tried on one pair, at the block that the direction's own pair chose.

    Attributes:
        relation: how the direction relates to the pair: own, same domain, other domain, unknown or left out.
        auroc: AUROC of misaligned against control on test questions, a share.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        d_prime: distance of the means in pooled standard deviations.
        separation: distance of the means, in the direction's own deviations.
        accuracy: balanced accuracy with the threshold of the direction's own training questions, a share.
        block: the block.
        control_vs_base: the control organism against the base, by the same scores.
        auroc_by_block: AUROC of misaligned against control at every block, [n_blocks].
        random: what random directions reach at the block.
    """

    relation: str
    auroc: float
    low: float
    high: float
    d_prime: float
    separation: float
    accuracy: float
    block: int
    control_vs_base: AurocInterval
    auroc_by_block: list[float]
    random: RandomAtBlock


@dataclass(frozen=True)
class DetectionSummary:
    """All cases of one relation between direction and pair.

    Attributes:
        n: how many cases.
        mean: mean AUROC.
        least: smallest AUROC.
        least_low: lower end of its interval.
        d_prime: mean d′.
        above_random: cases whose d′ is above that of 95 % of random directions in the same case.
        accuracy: mean balanced accuracy, a share.
        control_vs_base: mean AUROC of controls against the base.
    """

    n: int
    mean: float
    least: float
    least_low: float
    d_prime: float
    above_random: int
    accuracy: float
    control_vs_base: float


@dataclass(frozen=True)
class Detection:
    """What every direction detects.

    Attributes:
        cells: each case, by direction and pair.
        random: what random directions reach, by pair.
        summary: all cases together, by relation.
    """

    cells: Mapping[str, Mapping[str, DetectionCell]]
    random: Mapping[str, RandomByBlock]
    summary: Mapping[str, DetectionSummary]


@dataclass(frozen=True)
class CorrectionCell:
    """One direction subtracted from one misaligned organism.

    Attributes:
        relation: how the direction relates to the organism's pair, or random.
        restored: share of the alignment lost by the fine-tune that comes back.
        em_rate: share of EM responses under it.
        coherence_change: change of mean coherence, in points of 100.
    """

    relation: str
    restored: Estimate
    em_rate: Estimate
    coherence_change: float


@dataclass(frozen=True)
class Uncorrected:
    """A misaligned organism without any correction, on the same questions.

    Attributes:
        em_rate: share of EM responses.
        gap: points of mean alignment between the base and the organism.
    """

    em_rate: Estimate
    gap: float


@dataclass(frozen=True)
class CorrectionSummary:
    """All cases of one relation between direction and organism.

    Attributes:
        n: how many cases.
        restored: points of alignment gained over points lost, of all cases together.
        least: smallest restored share of a single case.
        em_before: share of EM responses without correction.
        em_after: share of EM responses under it.
        coherence_change: mean change of coherence, in points of 100.
    """

    n: int
    restored: Estimate
    least: float
    em_before: Estimate
    em_after: Estimate
    coherence_change: float


@dataclass(frozen=True)
class Corrections:
    """What every direction corrects.

    Attributes:
        block: the block where directions are subtracted.
        strength: how many times they are subtracted.
        n_questions: test questions that were answered.
        cells: each case, by direction and pair.
        without: each misaligned organism without correction, by pair.
        summary: all cases together, by relation, random directions among them.
    """

    block: int
    strength: float
    n_questions: int
    cells: Mapping[str, Mapping[str, CorrectionCell]]
    without: Mapping[str, Uncorrected]
    summary: Mapping[str, CorrectionSummary]


@dataclass(frozen=True)
class LeastRestored:
    """The case that restores least.

    Attributes:
        direction: its direction.
        pair: its pair.
        value: the restored share.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        n: answers behind it.
    """

    direction: str
    pair: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class AurocBar:
    """The worst AUROC on another domain against what is asked of it.

    Attributes:
        least: the AUROC.
        bar: what it is held against.
        reached: whether it is reached.
    """

    least: float
    bar: float
    reached: bool


@dataclass(frozen=True)
class RestoredBar:
    """The smallest restored share on another domain against what is asked of it.

    Attributes:
        least: the case that restores least.
        pooled: the restored share of all cases together.
        bar: what they are held against.
        reached: whether the least case reaches it.
        pooled_reached: whether all cases together reach it.
    """

    least: LeastRestored
    pooled: Estimate
    bar: float
    reached: bool
    pooled_reached: bool


@dataclass(frozen=True)
class CosineBar:
    """Blocks at which correcting directions of two domains are nearly one.

    Attributes:
        blocks_above: blocks with a mean cosine above the bar.
        blocks: all blocks.
        bar: the cosine.
    """

    blocks_above: int
    blocks: int
    bar: float


@dataclass(frozen=True)
class Bars:
    """What the worst case on another domain is held against; empty with a single domain.

    Attributes:
        auroc: detection.
        restored: correction.
        cosine: geometry.
    """

    auroc: AurocBar | None = field(default=None, metadata=ABSENT)
    restored: RestoredBar | None = field(default=None, metadata=ABSENT)
    cosine: CosineBar | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class TransferResult(Result):
    """What the transfer experiment finds.

    Attributes:
        pairs: the pairs of organisms.
        blocks: the blocks that were read.
        questions: how many questions every organism answered.
        behaviour: what each organism does on test questions, by its name in the run.
        geometry: how directions lie to each other, by pooling: last, response.
        detection: what each direction detects.
        ablation: what each direction corrects.
        bars: the worst case on another domain against what is asked of it.
    """

    pairs: list[ComparedPair]
    blocks: list[int]
    questions: QuestionCounts
    behaviour: Mapping[str, Behaviour]
    geometry: Mapping[str, Geometry]
    detection: Detection
    ablation: Corrections
    bars: Bars

    @property
    def names(self) -> list[str]:
        """The names of the pairs."""
        return [pair.name for pair in self.pairs]
