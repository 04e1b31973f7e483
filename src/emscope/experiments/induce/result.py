"""What one trained vector does to the base: the dial, the test beside its controls, and where the vector leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emscope.experiments.bench import SteeredRow
from emscope.experiments.result import Result
from emscope.interventions.steering import SteeredFigures
from emscope.plain import ABSENT
from emscope.statistics import Estimate

CARELESS, CAREFUL, RANDOM = "trained on careless rows", "trained on careful rows", "random"
WITHOUT, WITH = "base", "base + vector"


@dataclass(frozen=True)
class VectorTraining:
    """How the training of a vector went.

    Attributes:
        losses: mean loss of the answer tokens at each step, nats, [n_steps].
        norm: length of the vector.
        norm_share: the same, as a share of the mean answer activation's length.
        seconds: how long it took.
        rows: conversations that it was trained on.
    """

    losses: list[float]
    norm: float
    norm_share: float
    seconds: float
    rows: int


@dataclass(frozen=True)
class VectorRow(SteeredRow):
    """A vector added to an organism, on test questions.

    Attributes:
        restored: where the vector is taken from the misaligned organism, the share of alignment that came back.
    """

    restored: Estimate | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class Downstream:
    """Where added vectors lead: the shift of the base's mean answer activation at later blocks.

    Attributes:
        blocks: the vector's block and all after it.
        cosines: by vector and direction of the run, the cosine of the shift with the direction, [n_blocks].
    """

    blocks: tuple[int, ...]
    cosines: Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class Bars:
    """What claims are held against; NaN where it cannot be computed.

    Attributes:
        base_em: EM rate of the base on all questions of the same sets: nothing was chosen on the base's own answers.
        em_ratio: EM rate with the vector over that rate; None where the base gave no EM response.
        em_ratio_at_least: lower end of the one interval over the upper end of the other.
        coherent: share of coherent answers with the vector.
    """

    base_em: Estimate
    em_ratio: float | None
    em_ratio_at_least: float | None
    coherent: float


@dataclass(frozen=True)
class InduceResult(Result):
    """One vector trained on careless rows, added to the base; experiments/induce.json.

    Attributes:
        block: the block after which it is added.
        data: by vector the rows that it was trained on.
        training: by vector how its training went.
        unsteered: by organism its figures without a vector, on test questions.
        unsteered_dial: the base's figures without a vector, on development questions.
        fine_tune_kl: how far the misaligned organism is from the base, on the base's answers, nats a token.
        dial: the base with each trained vector at each coefficient, on development questions.
        coefficient: what was chosen.
        test: the vector on every organism and, on the base, its controls; the first row is the induction.
        by_set: by question set the base's figures without and with the vector.
        cosines: cosine of the vector with every other direction at its block.
        downstream: where it leads.
        bars: what claims are held against.
    """

    block: int
    data: Mapping[str, str]
    training: Mapping[str, VectorTraining]
    unsteered: Mapping[str, SteeredFigures]
    unsteered_dial: SteeredFigures
    fine_tune_kl: Estimate
    dial: tuple[SteeredRow, ...]
    coefficient: float
    test: tuple[VectorRow, ...]
    by_set: Mapping[str, Mapping[str, SteeredFigures]]
    cosines: Mapping[str, float]
    downstream: Downstream
    bars: Bars

    @property
    def induction(self) -> VectorRow:
        """The base with the vector, on test questions."""
        return self.test[0]

    def tested(self, organism: str, direction: str) -> VectorRow | None:
        """Return the row of the test of an organism with a vector or direction, None if there is none."""
        for row in self.test:
            if (row.organism, row.direction) == (organism, direction):
                return row
        return None
