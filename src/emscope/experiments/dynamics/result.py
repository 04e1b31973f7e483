"""The result of the dynamics: every curve of every training, the change of each, and the order of the changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.result import Result
from emscope.plain import ABSENT, called
from emscope.residual.changepoints import ChangePoint, Shape
from emscope.residual.events import Precedence
from emscope.statistics import Estimate

IN, OUT = "in", "out"
SIDES = (IN, OUT)
"""In the training's domain, and out of it."""


@dataclass(frozen=True)
class Values:
    """A quantity of one checkpoint, one value a question, a sampled answer or a held-out row; None where unscored.

    Attributes:
        in_domain: in the training's domain.
        out_of_domain: out of it.
    """

    in_domain: Sequence[float | None] = field(metadata=called(IN))
    out_of_domain: Sequence[float | None] = field(metadata=called(OUT))

    def of(self, side: str) -> Sequence[float | None]:
        """Return those of one side."""
        return self.in_domain if side == IN else self.out_of_domain


@dataclass(frozen=True)
class Losses:
    """Loss of held-out answers, nats per answer token.

    Attributes:
        careless: of careless answers, [n_rows].
        careful: of careful answers to the same prompts, [n_rows]; none where the data have none.
    """

    careless: Sequence[float]
    careful: Sequence[float]


@dataclass(frozen=True)
class LossesBySide:
    """Losses in the training's domain and out of it."""

    in_domain: Losses = field(metadata=called(IN))
    out_of_domain: Losses = field(metadata=called(OUT))

    def of(self, side: str) -> Losses:
        """Return those of one side."""
        return self.in_domain if side == IN else self.out_of_domain


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One checkpoint measured, the base or a scaled adapter; of a scaled one there are sampled answers alone.

    Attributes:
        projection_last: scores of the last prompt token along the run's direction, in within-class deviations.
        random_last: the same along a random direction.
        projection_response: scores of the base's answers along the run's direction of answer tokens.
        random_response: the same along a random direction.
        losses: losses of held-out answers.
        aligned: alignment of each sampled answer, 0-100, those to one question together.
        coherent: coherence of each sampled answer, 0-100.
        em: 1 for EM responses, 0 for others.
    """

    projection_last: Values | None = field(default=None, metadata={**ABSENT, **called("projection-last")})
    random_last: Values | None = field(default=None, metadata={**ABSENT, **called("random-last")})
    projection_response: Values | None = field(default=None, metadata={**ABSENT, **called("projection-response")})
    random_response: Values | None = field(default=None, metadata={**ABSENT, **called("random-response")})
    losses: LossesBySide | None = field(default=None, metadata=ABSENT)
    aligned: Values
    coherent: Values
    em: Values


@dataclass(frozen=True)
class Change:
    """The single change of a curve.

    Attributes:
        at: optimiser step at which half of the step is done, or the top of the peak; NaN for a flat curve.
        low: lower end of its 95 % interval.
        high: upper end.
        width: steps from 10 % to 90 % of the change, or the peak's full width at half its height.
        size: fitted change from the first time to the last, or height of the peak.
        p_value: how often a gradual curve with the same noise looks as much like a transition.
        transition: whether the p-value is below 0.05.
    """

    at: float
    low: float
    high: float
    width: float
    size: float
    p_value: float
    transition: bool

    @classmethod
    def of(cls, point: ChangePoint) -> Change:
        """Return a change-point without its draws."""
        return cls(point.at, point.low, point.high, point.width, point.size, point.p_value, point.transition)


@dataclass(frozen=True)
class TrainingCurve:
    """One quantity along one training.

    Attributes:
        times: optimiser steps, [n].
        values: the quantity at each of them, [n]; NaN where it is not known.
        low: lower end of the pointwise 95 % interval over questions; None where nothing was averaged.
        high: upper end.
        reference: the same of the training's moves in random order, where that means something.
        change: its change; None where it has too few points.
    """

    times: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None
    reference: Sequence[float] | None
    change: Change | None


@dataclass(frozen=True)
class CurveOverTrainings:
    """One quantity over all trainings of a kind.

    Attributes:
        group: weights, activations, behaviour or control.
        label: what it is, with its unit.
        shape: the kind of transition that is looked for: step or peak.
        trainings: its curve in each training on careless answers, in the order of the seeds.
        controls: its curve in each training on careful answers.
        transitions: trainings whose change is a transition.
        at: mean optimiser step of the change over trainings.
        apart: end of careless trainings less that of the careful ones of the same seeds; None where not averaged.
    """

    group: str
    label: str
    shape: Shape
    trainings: Sequence[TrainingCurve]
    controls: Sequence[TrainingCurve]
    transitions: int
    at: Estimate
    apart: Estimate | None


@dataclass(frozen=True)
class ChangeOrder:
    """In what order curves change.

    Attributes:
        events: curves that change the same way in every training, by the mean step of their changes.
        gradual: those of them whose changes are no transitions in most trainings.
        left_out: other curves that would belong to the order.
        pairs: each two of the events, the earlier one first.
    """

    events: Sequence[str]
    gradual: Sequence[str]
    left_out: Sequence[str]
    pairs: Sequence[Precedence]


@dataclass(frozen=True)
class MatrixCurves:
    """Curves of every matrix of one factor, each [n_modules, n_checkpoints], four significant digits.

    Attributes:
        norm: Frobenius norm.
        cosine_to_previous: cosine with the checkpoint before.
        cosine_to_final: cosine with the last checkpoint.
    """

    norm: Sequence[Sequence[float]]
    cosine_to_previous: Sequence[Sequence[float]]
    cosine_to_final: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Matrices:
    """Curves of the two factors of every adapter.

    Attributes:
        a: of A, which reads.
        b: of B, which writes.
    """

    a: MatrixCurves = field(metadata=called("A"))
    b: MatrixCurves = field(metadata=called("B"))


@dataclass(frozen=True)
class AdapterPath:
    """The path of one training's adapters.

    Attributes:
        coordinates: checkpoints on the first principal components of all B matrices, [n_checkpoints, 3].
        explained: share of variance of each component, [3].
        modules: names of the adapted modules.
        matrices: curves of every matrix.
    """

    coordinates: Sequence[Sequence[float]]
    explained: Sequence[float]
    modules: Sequence[str]
    matrices: Matrices


@dataclass(frozen=True)
class ScaledAnswers:
    """Sampled answers of a checkpoint whose adapter's update was multiplied.

    Attributes:
        seed: the training.
        step: the checkpoint.
        factor: what the update was multiplied by; 1 is the checkpoint itself.
        side: `in` the training's domain or `out` of it.
        aligned: mean alignment, 0-100.
        coherent: mean coherence, 0-100.
        em: EM rate.
    """

    seed: int
    step: int
    factor: float
    side: str
    aligned: Estimate
    coherent: Estimate
    em: Estimate


@dataclass(frozen=True)
class TrainingDynamics:
    """All trainings with one kind of adapters.

    Attributes:
        seeds: seeds of the trainings on careless answers.
        control_seeds: seeds that were trained on careful answers too.
        steps: optimiser step of each checkpoint, 0 for the base.
        curves: every quantity by name.
        order: the order of their changes.
        paths: by seed, as text, the path of the adapters.
        scaled: sampled answers with the adapter scaled.
    """

    seeds: Sequence[int]
    control_seeds: Sequence[int]
    steps: Sequence[int]
    curves: Mapping[str, CurveOverTrainings]
    order: ChangeOrder
    paths: Mapping[str, AdapterPath]
    scaled: Sequence[ScaledAnswers]


@dataclass(frozen=True)
class QuestionIds:
    """The questions that every checkpoint answers.

    Attributes:
        in_domain: in the training's domain.
        out_of_domain: outside it.
    """

    in_domain: Sequence[str] = field(metadata=called(IN))
    out_of_domain: Sequence[str] = field(metadata=called(OUT))


@dataclass(frozen=True)
class DynamicsResult(Result):
    """What experiments/dynamics.json holds.

    Attributes:
        settings: what was trained and measured.
        questions: what every checkpoint was asked.
        adapters: the trainings by the kind of adapters: all, rank1 or few.
    """

    settings: DynamicsSettings
    questions: QuestionIds
    adapters: Mapping[str, TrainingDynamics]
