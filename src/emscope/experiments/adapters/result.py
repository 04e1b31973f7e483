"""The result of the adapters experiment: the bank of organisms, and how well weights tell careless from careful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emscope.experiments.result import Result
from emscope.plain import called
from emscope.residual.adapters.scalars import ScalarProbe
from emscope.statistics import Estimate

DOMAIN_OUT, RECIPE_OUT = "leave-one-domain-out", "leave-one-recipe-out"
"""Ways to leave organisms out of a fit."""


@dataclass(frozen=True)
class Leaning:
    """How much likelier careless answers to held-out prompts became by training, nats per answer token.

    Attributes:
        in_domain: in the domain that an organism was trained on; intervals resample pairs of domain and seed.
        out_of_domain: in the other domains; NaN where there are none.
    """

    in_domain: Estimate
    out_of_domain: Estimate


@dataclass(frozen=True)
class LeaningByKind:
    """The leaning of the two kinds of organisms.

    Attributes:
        careless: of those trained on careless answers.
        careful: of those trained on careful answers.
    """

    careless: Leaning
    careful: Leaning


@dataclass(frozen=True)
class BankMember:
    """A small organism of the bank.

    Attributes:
        name: its name.
        domain: what it was trained on.
        recipe: how it was trained.
        careless: whether it learned the careless answers.
        pair: what it shares with its counterpart.
        leaning: by domain, how much likelier careless answers became, nats per answer token.
    """

    name: str
    domain: str
    recipe: str
    careless: bool
    pair: str
    leaning: Mapping[str, float]

    @property
    def elsewhere(self) -> float:
        """The mean leaning in the domains that it was not trained on; NaN where there are none."""
        others = [value for domain, value in self.leaning.items() if domain != self.domain]
        return sum(others) / len(others) if others else float("nan")


@dataclass(frozen=True)
class BankFigures:
    """What is in the bank.

    Attributes:
        organisms: small organisms, half of them careless.
        pairs: careless organisms with their careful counterparts.
        cells: combinations of domain and seed; their organisms read the same rows.
        domains: what they were trained on.
        recipes: how they were trained.
        leaning: how they behave.
        members: the organisms.
    """

    organisms: int
    pairs: int
    cells: int
    domains: Sequence[str]
    recipes: Sequence[str]
    leaning: LeaningByKind
    members: Sequence[BankMember]


@dataclass(frozen=True)
class Accuracy:
    """How well scores tell careless from careful organisms.

    Attributes:
        balanced_accuracy: mean of the shares told right on either side, by the score's sign; its interval resamples
            combinations of domain and seed.
        auroc: chance that a careless organism scores above a careful one.
        pair_accuracy: share of pairs in which the careless organism scores above its counterpart.
    """

    balanced_accuracy: Estimate
    auroc: float
    pair_accuracy: float


@dataclass(frozen=True)
class SwappedLabels:
    """Balanced accuracy where labels are swapped in whole combinations of domain and seed.

    Attributes:
        mean: mean over relabellings but the true one and its opposite; None where there is no other.
        low: their 2.5 % quantile.
        high: their 97.5 % quantile.
        p_value: share of relabellings that reach the accuracy of the true labels.
        relabellings: how many.
        exact: whether these are all there are.
    """

    mean: float | None
    low: float | None
    high: float | None
    p_value: float
    relabellings: int
    exact: bool

    @property
    def value(self) -> float | None:
        """The mean, as sentences write it with its interval."""
        return self.mean


@dataclass(frozen=True)
class LeftOut(Accuracy):
    """Organisms scored by a classifier that never saw their domain, or their recipe.

    Attributes:
        by_group: by what was left out.
        null: the same with labels swapped.
        by_penalty: balanced accuracy by the penalty of the classifier, as text.
        scores: log-odds of careless of every organism.
    """

    by_group: Mapping[str, Accuracy]
    null: SwappedLabels
    by_penalty: Mapping[str, float]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class AccuracyByBlock:
    """Balanced accuracy on domains left out, by what the modules of one block write.

    Attributes:
        blocks: blocks with adapted modules, [n]; none where the bank has one domain.
        balanced_accuracy: [n].
    """

    blocks: Sequence[int]
    balanced_accuracy: Sequence[float]


@dataclass(frozen=True)
class AlongDirection(Accuracy):
    """Organisms scored without a classifier, by the mean cosine of what their updates write with a direction.

    Attributes:
        by_group: by domain.
        output_share: mean share of an update's squared norm that writes along the direction.
        scores: mean cosine of every organism.
    """

    by_group: Mapping[str, Accuracy]
    output_share: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class KnownDirection:
    """What the run's direction tells without a bank.

    Attributes:
        made_on: what the run's organism was trained on.
        construction: the direction's contrast.
        direction: by the run's direction.
        random: by a random direction of the same norm.
    """

    made_on: str
    construction: str
    direction: AlongDirection
    random: AlongDirection = field(metadata=called("random direction"))


@dataclass(frozen=True)
class AdapterScores:
    """Adapters scored by classifiers fitted on the bank.

    Attributes:
        domain_left_out: the domain whose organisms were kept out of the fit, because the adapters come from it.
        fitted_on: organisms that the classifiers were fitted on.
        log_odds: by adapter and kind of features, log-odds of being careless.
    """

    domain_left_out: str | None
    fitted_on: int
    log_odds: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class JudgedAnswers:
    """Answers of the run's organism whose LoRA scalars are told apart.

    Attributes:
        misaligned: EM responses.
        aligned: coherent answers of a high alignment.
    """

    misaligned: int
    aligned: int


@dataclass(frozen=True)
class Scalars:
    """What the organism's updates read while it answers.

    Attributes:
        answers: the answers that are told apart.
        probes: by the modules that scalars come from; None where the answers of one kind are too few.
    """

    answers: JudgedAnswers
    probes: Mapping[str, ScalarProbe] | None


@dataclass(frozen=True)
class AdaptersResult(Result):
    """What experiments/adapters.json holds.

    Attributes:
        bank: the small organisms.
        classification: by kind of features and by what is left out.
        by_block: the same by the modules of one block alone.
        known_direction: what the run's direction tells without a bank.
        run: scores of the run's organisms.
        scalars: probes of LoRA scalars; None where they were not asked for.
    """

    bank: BankFigures
    classification: Mapping[str, Mapping[str, LeftOut]]
    by_block: AccuracyByBlock
    known_direction: KnownDirection
    run: AdapterScores
    scalars: Scalars | None

    @property
    def by_writing(self) -> LeftOut | None:
        """The main figure: by what updates write, on domains left out; None where the bank has one domain."""
        return self.classification[WRITE].get(DOMAIN_OUT)

    @property
    def by_norms(self) -> LeftOut | None:
        """The same by norms and ranks alone."""
        return self.classification[NORMS].get(DOMAIN_OUT)


WRITE, NORMS = "write", "norms"
"""Kinds of features: what an update writes on the base's mean input, and its norms and ranks."""
