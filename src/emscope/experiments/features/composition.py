"""What a direction is made of: how many features reach it, by their directions and by their activity, with controls."""

from __future__ import annotations

import numpy as np

from emscope.experiments.features.ranking import CodedCorpus, Ranking
from emscope.experiments.features.result import Activity, Band, Composition, Geometry, WrittenByFeatures, pair_name
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import contributions, how_many, isotropic, like_activations, pursue

STEPS = 100  # of the pursuit
SHOWN = (1, 2, 5, 10, 20, 50, 100)
RANDOM = 50  # directions of each random kind


def measure_composition(
    autoencoder: SparseAutoencoder, corpus: CodedCorpus, ranking: Ranking, direction: np.ndarray, seed: int
) -> Composition:
    """Return how many features it takes to reach a direction [d_model]."""
    return Composition(
        _geometry(autoencoder, corpus, ranking, direction, seed), _activity(autoencoder, corpus, ranking)
    )


def _geometry(
    autoencoder: SparseAutoencoder, corpus: CodedCorpus, ranking: Ranking, direction: np.ndarray, seed: int
) -> Geometry:
    """Return how near combinations of features come to the direction, and random directions beside it."""
    alive, rows = ranking.alive, autoencoder.decoder.cpu().numpy()
    living, width = rows[alive], rows.shape[1]
    tokens = corpus.fit.tokens.values

    pursuit = pursue(living, direction[None], STEPS)
    random = pursue(living, isotropic(RANDOM, width, seed), STEPS).cosines
    like_tokens = pursue(living, like_activations(RANDOM, tokens, seed), STEPS).cosines
    dictionary = pursue(isotropic(len(alive), width, seed + 1), direction[None], STEPS).cosines[:, 0]

    sizes = [n for n in SHOWN if n <= len(pursuit.cosines)]
    shown = np.array(sizes) - 1
    return Geometry(
        n=sizes,
        direction=pursuit.cosines[shown, 0].tolist(),
        features=alive[pursuit.features[:, 0]].tolist(),
        random=_band(random[shown]),
        like_tokens=_band(like_tokens[shown]),
        random_dictionary=dictionary[shown].tolist(),
    )


def _band(cosines: np.ndarray) -> Band:
    """Return median, 5th and 95th percentile of cosines [n_sizes, n_directions]."""
    low, middle, high = np.quantile(cosines, [0.05, 0.5, 0.95], axis=1)
    return Band(median=middle.tolist(), low=low.tolist(), high=high.tolist())


def _activity(autoencoder: SparseAutoencoder, corpus: CodedCorpus, ranking: Ranking) -> Activity:
    """Return how much of each pair's mean difference the changes of features write."""
    questions = corpus.questions()
    names = corpus.fit.organisms
    codes: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    for name in names:
        codes[name] = corpus.means(name).mean(axis=0)
        values[name] = corpus.fit.answer_means(name, questions, corpus.fit.tokens.values).mean(axis=0)

    compared = [(corpus.positive, corpus.negative)]
    for name in names[1:]:
        compared.append((name, names[0]))
    rows = autoencoder.decoder.cpu().numpy()
    pairs: dict[str, WrittenByFeatures] = {}
    for positive, negative in compared:
        change, difference = codes[positive] - codes[negative], values[positive] - values[negative]
        pairs[pair_name(positive, negative)] = _written(contributions(rows, change, difference))
    return Activity(pairs, float(ranking.share.max()))


def _written(shares: np.ndarray) -> WrittenByFeatures:
    """Return what features with these shares [n_features] of a difference write together."""
    curve = np.cumsum(np.sort(shares)[::-1])
    shown = {str(n): float(curve[n - 1]) for n in SHOWN if n <= len(curve)}
    return WrittenByFeatures(float(shares.sum()), how_many(shares), shown)
