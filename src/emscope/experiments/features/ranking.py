"""Features ranked: by cosine with the direction, by how much more one organism uses them, and by both at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from emscope.experiments.features.corpus import KINDS, CorpusPart
from emscope.experiments.features.result import (
    DescribedFeature,
    DescribedFeatures,
    Detector,
    HeldOutSeparation,
    pair_name,
)
from emscope.pipeline.lab import Lab
from emscope.residual.directions import unit
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import contributions
from emscope.residual.features.examples import Reader
from emscope.statistics.separation import auroc, auroc_interval, d_prime

EXAMPLES = 4


@dataclass(frozen=True)
class CodedCorpus:
    """Both parts of the corpus with their codes, and the two organisms whose difference is the direction.

    Attributes:
        fit: the part that features are ranked on.
        heldout: the part that only measures.
        fit_codes: codes of its tokens, [n_tokens, n_features].
        heldout_codes: codes of the other part's tokens, [n_tokens, n_features].
        positive: the organism on the misaligned side.
        negative: the organism on the aligned side.
    """

    fit: CorpusPart
    heldout: CorpusPart
    fit_codes: csr_matrix
    heldout_codes: csr_matrix
    positive: str
    negative: str

    def means(self, organism: str, *, heldout: bool = False) -> np.ndarray:
        """Return an organism's mean codes over each of its answers, [n_questions, n_features]."""
        part, codes = (self.heldout, self.heldout_codes) if heldout else (self.fit, self.fit_codes)
        return part.answer_means(organism, self.questions(heldout=heldout), codes)

    def questions(self, *, heldout: bool = False) -> list[str]:
        """Return the training (or test) questions that every organism has answered."""
        part = self.heldout if heldout else self.fit
        return part.answered(part.organisms)


@dataclass(frozen=True)
class Ranking:
    """What each feature has to do with the direction, measured on training questions, [n_features].

    Attributes:
        cosine: of its decoder row with the direction.
        change: mean code in the positive organism's own answers less that in the negative one's.
        share: its share of the mean difference between the two, `contributions`.
        d_prime: how far apart its mean codes in answers of the two lie, in standard deviations.
        rate: share of fitted tokens at which it is active.
        strength: mean code over fitted tokens.
        difference: the mean difference of activations itself, [d_model].
        agreement: cosine of that difference with the run's direction.
    """

    cosine: np.ndarray
    change: np.ndarray
    share: np.ndarray
    d_prime: np.ndarray
    rate: np.ndarray
    strength: np.ndarray
    difference: np.ndarray
    agreement: float

    @cached_property
    def alive(self) -> np.ndarray:
        """Numbers of the features that are active at some fitted token."""
        return np.flatnonzero(self.rate > 0)

    def by(self, values: np.ndarray, n: int) -> np.ndarray:
        """Return the n living features with the largest values, largest first."""
        return self.alive[np.argsort(-values[self.alive], kind="stable")[:n]]

    def chosen(self, n: int) -> np.ndarray:
        """Return n features: in turn the next by share, by |cosine| and by |change|."""
        orders = [self.by(values, n) for values in (self.share, np.abs(self.cosine), np.abs(self.change))]
        turns = np.stack(orders, axis=1).ravel().tolist()
        return np.array(list(dict.fromkeys(turns))[:n])


def rank(autoencoder: SparseAutoencoder, corpus: CodedCorpus, direction: np.ndarray) -> Ranking:
    """Rank features on training questions against a direction [d_model] of the same two organisms."""
    rows = autoencoder.decoder.cpu().numpy()
    positive, negative = corpus.means(corpus.positive), corpus.means(corpus.negative)
    change = positive.mean(axis=0) - negative.mean(axis=0)
    spread = np.sqrt((positive.var(axis=0, ddof=1) + negative.var(axis=0, ddof=1)) / 2)
    difference = _mean_answer(corpus, corpus.positive) - _mean_answer(corpus, corpus.negative)

    codes = corpus.fit_codes
    return Ranking(
        cosine=rows @ unit(direction),
        change=change,
        share=contributions(rows, change, difference),
        d_prime=change / np.maximum(spread, 1e-3 * spread.max()),
        rate=codes.getnnz(axis=0) / codes.shape[0],
        strength=np.asarray(codes.mean(axis=0)).ravel(),
        difference=difference,
        agreement=float(unit(direction) @ unit(difference)),
    )


def _mean_answer(corpus: CodedCorpus, organism: str) -> np.ndarray:
    """Return an organism's mean activation over its answers to training questions, [d_model]."""
    means = corpus.fit.answer_means(organism, corpus.questions(), corpus.fit.tokens.values)
    return np.asarray(means.mean(axis=0))


def describe(lab: Lab, corpus: CodedCorpus, ranking: Ranking, n: int) -> DescribedFeatures:
    """Return n features one by one, and what the best single ones detect on test questions."""
    means: dict[str, np.ndarray] = {}
    heldout: dict[str, np.ndarray] = {}
    on_texts: dict[str, dict[str, np.ndarray]] = {}
    for name in lab.names:
        means[name] = corpus.means(name)
        heldout[name] = corpus.means(name, heldout=True)
        on_texts[name] = {kind: corpus.fit.kind_means(name, kind, corpus.fit_codes) for kind in KINDS}

    reader = Reader(lab.organism(lab.names[0]).tokenizer, corpus.fit.tokens, corpus.fit.sources)
    by_feature = corpus.fit_codes.tocsc()
    listed: list[DescribedFeature] = []
    for feature in ranking.chosen(n).tolist():
        positive, negative = heldout[corpus.positive][:, feature], heldout[corpus.negative][:, feature]
        listed.append(
            DescribedFeature(
                feature=feature,
                cosine=float(ranking.cosine[feature]),
                change=float(ranking.change[feature]),
                share=float(ranking.share[feature]),
                d_prime=float(ranking.d_prime[feature]),
                rate=float(ranking.rate[feature]),
                mean={name: float(codes[:, feature].mean()) for name, codes in means.items()},
                on_texts=_codes_of(feature, on_texts),
                heldout_auroc=auroc(positive, negative),
                words=reader.words(by_feature, feature),
                examples=reader.strongest(by_feature, feature, EXAMPLES),
            )
        )
    return DescribedFeatures(listed, _detectors(lab, corpus, ranking, heldout))


def _codes_of(feature: int, on_texts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    codes: dict[str, dict[str, float]] = {}
    for name, kinds in on_texts.items():
        codes[name] = {kind: float(values[feature]) for kind, values in kinds.items()}
    return codes


def _detectors(
    lab: Lab, corpus: CodedCorpus, ranking: Ranking, heldout: Mapping[str, np.ndarray]
) -> dict[str, Detector]:
    """Return what the direction, and single features signed by their change, detect on test questions."""
    questions = corpus.questions(heldout=True)
    groups = list(map(lab.groups.__getitem__, questions))
    axis, tokens = unit(ranking.difference), corpus.heldout.tokens.values
    along = {name: corpus.heldout.answer_means(name, questions, tokens) @ axis for name in lab.names}
    detectors = {"direction": Detector(None, _separations(corpus.positive, along, groups))}

    orders = {
        "best d′ on training questions": np.abs(ranking.d_prime),
        "largest share": ranking.share,
        "largest |cosine|": np.abs(ranking.cosine),
    }
    for label, values in orders.items():
        feature = int(ranking.by(values, 1)[0])
        sign = np.sign(ranking.change[feature]) or 1.0
        scores = {name: sign * codes[:, feature] for name, codes in heldout.items()}
        detectors[label] = Detector(feature, _separations(corpus.positive, scores, groups))
    return detectors


def _separations(
    positive: str, scores: Mapping[str, np.ndarray], groups: Sequence[str]
) -> dict[str, HeldOutSeparation]:
    """Return how well scores [n_questions] tell the positive organism from each of the others."""
    separations: dict[str, HeldOutSeparation] = {}
    for other, values in scores.items():
        if other != positive:
            low, high = auroc_interval(scores[positive], values, groups=groups)
            figures = (auroc(scores[positive], values), low, high, d_prime(scores[positive], values))
            separations[pair_name(positive, other)] = HeldOutSeparation(*figures, len(values))
    return separations
