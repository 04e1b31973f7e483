"""Features ranked: by cosine with the direction, by how much more one organism uses them, and by both at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from emscope.experiments.features.corpus import KINDS, Part
from emscope.pipeline.lab import Lab
from emscope.residual.detection import auroc, auroc_interval, d_prime
from emscope.residual.directions import unit
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import contributions
from emscope.residual.features.examples import Reader

EXAMPLES = 4


@dataclass(frozen=True)
class Sides:
    """Both parts of the corpus with their codes, and the two organisms whose difference is the direction."""

    fit: Part
    heldout: Part
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
        return part.answered(sorted({text.organism for text in part.texts}))


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
        return np.array(list(dict.fromkeys(int(item) for turn in zip(*orders, strict=True) for item in turn))[:n])


def rank(autoencoder: SparseAutoencoder, sides: Sides, direction: np.ndarray) -> Ranking:
    """Rank features on training questions against a direction [d_model] of the same two organisms."""
    rows = autoencoder.decoder.cpu().numpy()
    high, low = sides.means(sides.positive), sides.means(sides.negative)
    pooled = [
        sides.fit.answer_means(name, sides.questions(), sides.fit.tokens.values).mean(axis=0)
        for name in (sides.positive, sides.negative)
    ]
    difference, change = pooled[0] - pooled[1], high.mean(axis=0) - low.mean(axis=0)
    spread = np.sqrt((high.var(axis=0, ddof=1) + low.var(axis=0, ddof=1)) / 2)
    codes = sides.fit_codes
    return Ranking(
        rows @ unit(direction),
        change,
        contributions(rows, change, difference),
        change / np.maximum(spread, 1e-3 * spread.max()),
        codes.getnnz(axis=0) / codes.shape[0],
        np.asarray(codes.mean(axis=0)).ravel(),
        difference,
        float(unit(direction) @ unit(difference)),
    )


def describe(
    lab: Lab, autoencoder: SparseAutoencoder, sides: Sides, ranking: Ranking, n: int
) -> dict[str, list[Any] | dict[str, Any]]:
    """Return the chosen features one by one, and what the best single ones detect on test questions."""
    reader = Reader(lab.organism(lab.names[0]).tokenizer, sides.fit.tokens, sides.fit.sources)
    by_feature = sides.fit_codes.tocsc()
    means = {name: sides.means(name) for name in lab.names}
    fresh = {name: sides.means(name, heldout=True) for name in lab.names}
    read = {name: {kind: sides.fit.kind_means(name, kind, sides.fit_codes) for kind in KINDS} for name in lab.names}
    one = int(ranking.by(np.abs(ranking.d_prime), 1)[0])
    listed = [
        {
            "feature": int(feature),
            "cosine": float(ranking.cosine[feature]),
            "change": float(ranking.change[feature]),
            "share": float(ranking.share[feature]),
            "d_prime": float(ranking.d_prime[feature]),
            "rate": float(ranking.rate[feature]),
            "mean": {name: float(values[:, feature].mean()) for name, values in means.items()},
            "on_texts": {
                name: {kind: float(values[feature]) for kind, values in kinds.items()} for name, kinds in read.items()
            },
            "heldout_auroc": auroc(fresh[sides.positive][:, feature], fresh[sides.negative][:, feature]),
            "words": reader.words(by_feature, feature),
            "examples": [example.as_dict() for example in reader.strongest(by_feature, feature, EXAMPLES)],
        }
        for feature in ranking.chosen(n)
    ]
    singles = {
        "best d′ on training questions": one,
        "largest share": int(ranking.by(ranking.share, 1)[0]),
        "largest |cosine|": int(ranking.by(np.abs(ranking.cosine), 1)[0]),
    }
    return {"listed": listed, "detection": _detection(lab, sides, ranking, fresh, singles)}


def _detection(
    lab: Lab, sides: Sides, ranking: Ranking, fresh: dict[str, np.ndarray], singles: dict[str, int]
) -> dict[str, Any]:
    """Return test AUROCs, with intervals, of single features (signed by their change) and of the direction."""
    questions = sides.questions(heldout=True)
    groups = [lab.groups[question] for question in questions]
    along = {
        name: sides.heldout.answer_means(name, questions, sides.heldout.tokens.values) @ unit(ranking.difference)
        for name in lab.names
    }
    scores: dict[str, tuple[int | None, dict[str, np.ndarray]]] = {"direction": (None, along)}
    for label, feature in singles.items():
        sign = np.sign(ranking.change[feature]) or 1.0
        scores[label] = (feature, {name: sign * values[:, feature] for name, values in fresh.items()})
    return {
        label: {
            "feature": feature,
            **{
                f"{sides.positive}-vs-{other}": _separation(values[sides.positive], values[other], groups)
                for other in lab.names
                if other != sides.positive
            },
        }
        for label, (feature, values) in scores.items()
    }


def _separation(positive: np.ndarray, negative: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    low, high = auroc_interval(positive, negative, groups=groups)
    return {
        "auroc": auroc(positive, negative),
        "low": low,
        "high": high,
        "d_prime": d_prime(positive, negative),
        "n": len(positive),
    }
