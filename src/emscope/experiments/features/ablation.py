"""Taking features out against taking the direction out: sampled answers to test questions, judged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from emscope.behaviour.tables import JudgedResponse, judgements_and_groups
from emscope.experiments.features.corpus import CorpusPart
from emscope.experiments.features.ranking import Ranking
from emscope.experiments.features.result import ChangedAnswers, FeatureAblation
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import answer_and_judge
from emscope.interventions.features import features_removed
from emscope.interventions.operators import Intervention, Subtract
from emscope.outside import read_json
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.directions import Directions, random_like
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import part_within, pursue
from emscope.sequences import spread
from emscope.statistics import Estimate, alignment_mean, em_rate, estimate_mean

STRENGTH = 1.5  # of a subtraction, where the run's own ablation is something else
REACH = 1.25
"""Tokens this many times further from the autoencoder's centre than the furthest fitted one are left as they are."""


@dataclass(frozen=True)
class Change:
    """One change of the misaligned organism: subtract a vector [d_model], or remove features by their numbers."""

    name: str
    vector: np.ndarray | None = None
    features: np.ndarray | None = None


def ablate_features(
    lab: Lab,
    autoencoder: SparseAutoencoder,
    directions: Directions,
    ranking: Ranking,
    fit: CorpusPart,
    n_questions: int,
    seed: int,
) -> FeatureAblation:
    """Return what each change does to the answers to test questions.

    Which features are taken was decided on training questions; nothing is chosen here.
    """
    questions = spread(lab.test_questions, n_questions)
    unchanged, base = lab.judged(MISALIGNED, questions), lab.judged(BASE, questions)
    strength = _strength(lab, autoencoder.block)
    distances = np.linalg.norm(fit.tokens.values - autoencoder.decoder_bias.cpu().numpy(), axis=1)
    reach = REACH * float(distances.max())

    answers = {"misaligned": _figures(unchanged, None), "base": _figures(base, None)}
    for change in changes(autoencoder, directions, ranking, seed):
        with _removed(lab, autoencoder, change, reach):
            rows = answer_and_judge(
                lab.organism(MISALIGNED),
                change.name,
                questions,
                lab.config.sampling,
                lab.judge,
                _intervention(directions, autoencoder.block, change, strength),
            )
        answers[change.name] = _figures(rows, restored_share(rows, unchanged, base))
    return FeatureAblation(len(questions), strength, answers)


def _strength(lab: Lab, block: int) -> float:
    """Return the strength of the run's own ablation, where that is a subtraction of this block's direction."""
    chosen = read_json(lab.folder.path("ablation.json"))["chosen"]
    same = chosen["mode"] == "subtract" and chosen["source_block"] == block
    return float(chosen["strength"]) if same else STRENGTH


def changes(autoencoder: SparseAutoencoder, directions: Directions, ranking: Ranking, seed: int) -> list[Change]:
    """Return the changes that are compared."""
    block = directions.blocks.index(autoencoder.block)
    direction, rows = directions.vectors[block], autoencoder.decoder.cpu().numpy()
    random = random_like(directions, seed).vectors[block]
    alive = ranking.alive
    nearest = alive[pursue(rows[alive], direction[None], 10).features[:, 0]]

    ten, fifty = ranking.by(ranking.share, 50)[:10], ranking.by(ranking.share, 50)
    raised = ranking.by(np.where(ranking.change > 0, ranking.share, 0), 50)
    raised = raised[(ranking.change[raised] > 0) & (ranking.share[raised] > 0)]
    return [
        Change("subtract the direction", direction),
        Change("subtract a random direction", random),
        Change("subtract its part along the nearest feature", part_within(rows[nearest[:1]], direction)),
        Change("subtract its part within the 10 nearest features", part_within(rows[nearest], direction)),
        Change("subtract what the change of 10 features writes", ranking.change[ten] @ rows[ten]),
        Change("subtract what the change of 50 features writes", ranking.change[fifty] @ rows[fifty]),
        Change("remove the 10 most raised features", features=raised[:10]),
        Change("remove the 50 most raised features", features=raised),
        Change("remove 50 other features as strong", features=_as_strong(ranking, raised)),
    ]


def _as_strong(ranking: Ranking, features: np.ndarray) -> np.ndarray:
    """Return as many other living features, each as strong on average as one of the given."""
    others = np.setdiff1d(ranking.alive, features).tolist()
    chosen = []
    for feature in features[: len(others)]:
        gaps = np.abs(ranking.strength[others] - ranking.strength[feature])
        chosen.append(others.pop(int(gaps.argmin())))
    return np.array(chosen)


def _removed(lab: Lab, autoencoder: SparseAutoencoder, change: Change, reach: float) -> AbstractContextManager[None]:
    if change.features is None:
        return nullcontext()
    return features_removed(lab.organism(MISALIGNED), autoencoder, change.features.tolist(), reach=reach)


def _intervention(directions: Directions, block: int, change: Change, strength: float) -> Intervention | None:
    if change.vector is None:
        return None
    vectors = directions.vectors.copy()
    vectors[directions.blocks.index(block)] = change.vector
    return Subtract(replace(directions, vectors=vectors), (block,), strength, block)


def _figures(rows: Sequence[JudgedResponse], restored: Estimate | None) -> ChangedAnswers:
    judgements, groups = judgements_and_groups(rows)
    coherence = [float("nan") if row.coherent is None else row.coherent for row in rows]
    return ChangedAnswers(
        aligned=alignment_mean(judgements, groups),
        coherent=estimate_mean(coherence, groups),
        em_rate=em_rate(judgements, groups),
        restored=restored,
    )
