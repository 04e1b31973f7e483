"""What steering finds: each organism under each coefficient, directions at equal disturbance, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emscope.experiments.bench import SteeredRow
from emscope.experiments.result import Result
from emscope.interventions.steering import SteeredFigures
from emscope.plain import ABSENT
from emscope.statistics import Estimate

CORRECTION, INDUCTION, COMPARED = "correction", "induction", "compared"


@dataclass(frozen=True)
class Chosen:
    """What was chosen for an organism on development questions.

    Attributes:
        blocks: where the direction is added.
        coefficient: how many times.
        kl: disturbance on development questions, nats a token.
    """

    blocks: tuple[int, ...]
    coefficient: float
    kl: float


@dataclass(frozen=True)
class CurveRow(SteeredRow):
    """A direction at a disturbance that others have too, on test questions.

    Attributes:
        level: the disturbance that was wanted, in times the fine-tune's own.
        kl_target: the same in nats a token, on development questions.
        kl_reached: whether a coefficient was found that disturbs by that there, to 5 %.
        restored: share of the misaligned organism's alignment that came back; absent for the base.
    """

    level: float
    kl_target: float
    kl_reached: bool
    restored: Estimate | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class CapRow:
    """The misaligned organism with projections capped to the aligned organism's range, on test questions.

    Attributes:
        blocks: where it is capped.
        width: half width of the range, in deviations of the aligned organism's tokens.
        kl: disturbance, nats a token.
        aligned: mean alignment, 0 to 100.
        coherent: share of coherent answers.
        em: EM rate.
        restored: share of alignment that came back.
    """

    blocks: tuple[int, ...]
    width: float
    kl: Estimate
    aligned: Estimate
    coherent: Estimate
    em: Estimate
    restored: Estimate


@dataclass(frozen=True)
class ReportedRow(SteeredRow):
    """What was chosen, or a direction that it is compared with, on test questions.

    Attributes:
        role: `correction`, `induction`, or `compared`: another direction at the disturbance of what was chosen.
        kl_target: of a compared direction, the disturbance that was wanted on development questions, nats a token.
        kl_reached: of a compared direction, whether a coefficient was found that disturbs by that there, to 5 %.
        restored: share of the misaligned organism's alignment that came back; absent for others.
    """

    role: str
    kl_target: float | None = field(default=None, metadata=ABSENT)
    kl_reached: bool | None = field(default=None, metadata=ABSENT)
    restored: Estimate | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class Bars:
    """What claims are held against; NaN where it cannot be computed.

    Attributes:
        restored: share of alignment that the correction brings back.
        kl_over_fine_tune: disturbance of the correction, in times the fine-tune's own.
        em_ratio: EM rate of the steered base over the base's own; None where the base gave no EM response.
        em_ratio_at_least: lower end of the steered rate's interval over the upper end of the base's, which a claim of
            ten times is held against: the ratio of the rates themselves rests on a handful of answers.
        coherent: share of coherent answers of the steered base.
        coherent_change: the same, less the base's own.
    """

    restored: float
    kl_over_fine_tune: float
    em_ratio: float | None
    em_ratio_at_least: float
    coherent: float
    coherent_change: float


@dataclass(frozen=True)
class SteerResult(Result):
    """Every organism of a run steered by its directions; experiments/steer.json.

    Attributes:
        direction: the dial's direction, v.
        places: where v was added: one block, or several that share it.
        blocks: all blocks of these places.
        directions: by direction the length of its vector, [n_blocks].
        residual_norm: by organism the mean norm of the residual stream over answer tokens, [n_blocks].
        fine_tune_kl: by organism the fine-tune's own disturbance on answers to test questions, nats a token.
        unsteered: by organism its figures without steering, on the questions of the test.
        unsteered_dial: the same on the development questions of the dial.
        unsteered_curves: the same on the questions of curves and caps.
        dial: v at every place and coefficient, on development questions.
        chosen: the correction of the misaligned organism and the induction of the base.
        curves: every direction at the chosen place, at the same disturbances, on test questions.
        caps: the misaligned organism capped, on test questions.
        test: what was chosen on every organism, and other directions at its disturbance, on test questions.
        bars: what claims are held against.
    """

    direction: str
    places: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    directions: Mapping[str, list[float]]
    residual_norm: Mapping[str, list[float]]
    fine_tune_kl: Mapping[str, Estimate]
    unsteered: Mapping[str, SteeredFigures]
    unsteered_dial: Mapping[str, SteeredFigures]
    unsteered_curves: Mapping[str, SteeredFigures]
    dial: tuple[SteeredRow, ...]
    chosen: Mapping[str, Chosen]
    curves: tuple[CurveRow, ...]
    caps: tuple[CapRow, ...]
    test: tuple[ReportedRow, ...]
    bars: Bars

    def tested(self, organism: str, role: str) -> list[ReportedRow]:
        """Return the rows of the test of one organism in one role."""
        return [row for row in self.test if row.organism == organism and row.role == role]
