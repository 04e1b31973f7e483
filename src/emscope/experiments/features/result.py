"""What the features experiment finds: which features of a sparse autoencoder make up a direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emscope.experiments.result import Result
from emscope.plain import REST, called
from emscope.residual.features.autoencoder import Quality
from emscope.residual.features.examples import Example
from emscope.residual.features.superposition import Interference
from emscope.statistics import Estimate


@dataclass(frozen=True)
class TakenApart:
    """The direction that is taken apart.

    Attributes:
        contrast: what its two sides differ in: model, control.
        positive: the organism on the misaligned side.
        negative: the organism on the aligned side.
        norm: its length at the block.
        cosine_with_captured: cosine with the mean difference of the tokens read here; 1 where both are the same.
    """

    contrast: str
    positive: str
    negative: str
    norm: float
    cosine_with_captured: float

    @property
    def pair(self) -> str:
        """The two sides as the result names them."""
        return pair_name(self.positive, self.negative)


def pair_name(positive: str, negative: str) -> str:
    """Return how the result names a comparison of two organisms."""
    return f"{positive}-vs-{negative}"


@dataclass(frozen=True)
class AutoencoderFacts:
    """The autoencoder and its training.

    Attributes:
        source: "trained here", or the folder it was loaded from.
        architecture: topk, standard, jumprelu or gated.
        n_features: how many features it has.
        d_model: width of the residual stream.
        k: active features a token, of topk.
        fit_tokens: tokens it was trained on; 0 where it was loaded.
        learn_from: organisms whose tokens these are.
        steps: steps of its training.
        loss: share of variance missed, at about a hundred steps.
    """

    source: str
    architecture: str
    n_features: int
    d_model: int
    k: int
    fit_tokens: int
    learn_from: list[str]
    steps: int
    loss: list[float]


@dataclass(frozen=True)
class QualityFigures:
    """How well the autoencoder describes tokens.

    Attributes:
        heldout: on held-out tokens of all organisms.
        fit: on the tokens that features are ranked on.
        heldout_by_organism: share of variance explained on held-out tokens, by organism.
    """

    heldout: Quality
    fit: Quality
    heldout_by_organism: Mapping[str, float]


@dataclass(frozen=True)
class NatsPerToken:
    """Mean loss on answer tokens, in nats.

    Attributes:
        whole: of the model as it is.
        spliced: with the autoencoder's reconstruction in place of the block's output.
        mean: with the mean activation in its place.
        zero: with zeros in its place.
    """

    whole: float
    spliced: float
    mean: float
    zero: float


@dataclass(frozen=True)
class SplicedLoss:
    """What a model loses with the autoencoder in it.

    Attributes:
        answers: the built-in answers that were read: careful or careless.
        nats_per_token: the losses.
        recovered: share of the loss recovered, against the mean in the block's place.
        recovered_from_zero: the same against zeros, an easier comparison.
    """

    answers: str
    nats_per_token: NatsPerToken
    recovered: Estimate
    recovered_from_zero: Estimate


@dataclass(frozen=True)
class Band:
    """What many random directions reach.

    Attributes:
        median: median of their cosines, [n_sizes].
        low: 5th percentile, [n_sizes].
        high: 95th percentile, [n_sizes].
    """

    median: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Geometry:
    """How near combinations of features come to the direction.

    Attributes:
        n: how many features are combined, [n_sizes].
        direction: cosine of the best such combination with the direction, [n_sizes].
        features: the features in the order in which they are taken.
        random: the same for 50 isotropic random directions.
        like_tokens: the same for 50 random directions with the covariance of the tokens.
        random_dictionary: the direction, by random features in place of the autoencoder's, [n_sizes].
    """

    n: list[int]
    direction: list[float]
    features: list[int]
    random: Band = field(metadata=called("random directions"))
    like_tokens: Band = field(metadata=called("random, covariance of tokens"))
    random_dictionary: list[float] = field(metadata=called("direction, random dictionary"))


@dataclass(frozen=True)
class WrittenByFeatures:
    """How much of the mean difference between two organisms' answers the changes of features write.

    Attributes:
        all_features: share written by all of them together.
        how_many: how many of the most involved write a share, by that share; None where all do not.
        curve: share written by the most involved, by how many they are.
    """

    all_features: float
    how_many: Mapping[str, int | None]
    curve: Mapping[str, float]


@dataclass(frozen=True)
class Activity:
    """What features' changes between organisms write.

    Attributes:
        pairs: by two organisms, see `pair_name`.
        share_of_largest: share of the direction that the most involved feature writes.
    """

    pairs: Mapping[str, WrittenByFeatures] = field(metadata=REST)
    share_of_largest: float


@dataclass(frozen=True)
class Composition:
    """How many features it takes to reach the direction.

    Attributes:
        geometry: by their directions.
        activity: by how much they change between the organisms.
    """

    geometry: Geometry
    activity: Activity


@dataclass(frozen=True)
class DescribedFeature:
    """One feature; ranked on training questions.

    Attributes:
        feature: its number.
        cosine: of its decoder row with the direction.
        change: mean code in the positive organism's answers less that in the negative one's.
        share: share of the mean difference between the two that this change writes.
        d_prime: how far apart its mean codes in answers of the two lie, in standard deviations.
        rate: share of tokens at which it is active.
        mean: mean code in each organism's own answers.
        on_texts: mean code on the same built-in answers, by organism and kind (careful, careless).
        heldout_auroc: AUROC of the positive against the negative organism on test questions.
        words: its commonest strongest tokens.
        examples: its strongest tokens in context.
    """

    feature: int
    cosine: float
    change: float
    share: float
    d_prime: float
    rate: float
    mean: Mapping[str, float]
    on_texts: Mapping[str, Mapping[str, float]]
    heldout_auroc: float
    words: list[str]
    examples: list[Example]


@dataclass(frozen=True)
class HeldOutSeparation:
    """How well a score tells the positive organism from another on test questions.

    Attributes:
        auroc: AUROC, a share.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        d_prime: distance of the means in pooled standard deviations.
        n: test questions.
    """

    auroc: float
    low: float
    high: float
    d_prime: float
    n: int


@dataclass(frozen=True)
class Detector:
    """A score of answers.

    Attributes:
        feature: the feature whose mean code it is; None for the projection on the direction.
        pairs: how well it separates, by two organisms, see `pair_name`.
    """

    feature: int | None
    pairs: Mapping[str, HeldOutSeparation] = field(metadata=REST)


@dataclass(frozen=True)
class DescribedFeatures:
    """The features most involved.

    Attributes:
        listed: each of them: in turn the next by share, by |cosine| and by |change|.
        detection: what single features and the direction detect, by how they were chosen.
    """

    listed: list[DescribedFeature]
    detection: Mapping[str, Detector]


@dataclass(frozen=True)
class CosineSpread:
    """Cosines of many vectors with the direction.

    Attributes:
        largest: the largest |cosine|.
        rms: their root mean square.
        beyond: share of them with |cosine| above 0.2.
    """

    largest: float
    rms: float
    beyond: float = field(metadata=called("beyond_0.2"))


@dataclass(frozen=True)
class CosinesWithDirection:
    """How near features lie to the direction.

    Attributes:
        features: of the living features.
        random: of as many random vectors.
    """

    features: CosineSpread
    random: CosineSpread


@dataclass(frozen=True)
class CosineMap:
    """Cosines of the features most involved.

    Attributes:
        features: their numbers, like beside like.
        cosines: of each two, the direction last, [n + 1][n + 1].
    """

    features: list[int]
    cosines: list[list[float]]


@dataclass(frozen=True)
class Layout:
    """Features in the plane of their first two principal components.

    Attributes:
        features: their numbers, the most involved first.
        n_top: how many of them are the most involved.
        places: where they lie, [n][2].
        direction: where the direction lies, [2].
        variance_shown: share of their variance that the plane shows.
        cosines: of each with the direction, [n].
    """

    features: list[int]
    n_top: int
    places: list[list[float]]
    direction: list[float]
    variance_shown: float
    cosines: list[float]


@dataclass(frozen=True)
class Superposition:
    """How features share the space.

    Attributes:
        n_alive: features that are active at some token.
        per_dimension: how many of them there are for each dimension.
        features: their pairwise cosines.
        random: the same of as many random vectors.
        like_features: the same of random vectors with the features' mean and covariance.
        cosine_with_direction: how near they lie to the direction.
        map: cosines of the most involved.
        layout: features in the plane.
    """

    n_alive: int
    per_dimension: float
    features: Interference
    random: Interference
    like_features: Interference = field(metadata=called("random, covariance of features"))
    cosine_with_direction: CosinesWithDirection
    map: CosineMap
    layout: Layout


@dataclass(frozen=True)
class ChangedAnswers:
    """An organism's answers to test questions.

    Attributes:
        aligned: mean alignment, 0 to 100.
        coherent: mean coherence, 0 to 100.
        em_rate: share of EM responses.
        restored: share of the alignment lost by the fine-tune that comes back; None where nothing was changed.
    """

    aligned: Estimate
    coherent: Estimate
    em_rate: Estimate
    restored: Estimate | None


@dataclass(frozen=True)
class FeatureAblation:
    """Taking features out against taking the direction out.

    Attributes:
        questions: test questions that were answered.
        strength: how many times a vector is subtracted.
        changes: answers under each change of the misaligned organism, by its name; first without any, and the base's.
    """

    questions: int
    strength: float
    changes: Mapping[str, ChangedAnswers]


@dataclass(frozen=True)
class FeaturesResult(Result):
    """What the features experiment finds.

    Attributes:
        block: the block whose output is taken apart.
        direction: the direction that is taken apart.
        autoencoder: the autoencoder and its training.
        quality: how well it describes tokens.
        loss: what models lose with it, by organism.
        composition: how many features it takes to reach the direction.
        features: the features most involved.
        superposition: how features share the space.
        ablation: what taking features out does; None where that was left out.
    """

    block: int
    direction: TakenApart
    autoencoder: AutoencoderFacts
    quality: QualityFigures
    loss: Mapping[str, SplicedLoss]
    composition: Composition
    features: DescribedFeatures
    superposition: Superposition
    ablation: FeatureAblation | None
