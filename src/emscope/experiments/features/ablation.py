"""Taking features out against taking the direction out: sampled answers to test questions, judged."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.experiments.features.corpus import Part
from emscope.experiments.features.ranking import Ranking
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import answer_and_judge
from emscope.interventions.features import features_removed
from emscope.interventions.operators import Intervention
from emscope.outside import read_json
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.directions import Directions, random_like
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import part_within, pursue
from emscope.statistics import alignment_mean, em_rate, estimate_mean

STRENGTH = 1.5  # of a subtraction, where the run's own ablation is something else


@dataclass(frozen=True)
class Change:
    """One change of the misaligned organism: subtract a vector, or remove features."""

    name: str
    vector: np.ndarray | None = None
    features: np.ndarray | None = None


def ablate_features(
    lab: Lab,
    autoencoder: SparseAutoencoder,
    directions: Directions,
    ranking: Ranking,
    fit: Part,
    n_questions: int,
    seed: int,
) -> dict[str, Any]:
    """Return alignment, coherence, EM rate and the share of alignment restored under each change, on test questions.

    Which features are taken was decided on training questions; nothing is chosen here.
    """
    questions = spread(lab.test_questions, n_questions)
    wanted = {question.id for question in questions}
    plain, base = (
        [
            row
            for row in read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse)
            if row.question_id in wanted
        ]
        for name in (MISALIGNED, BASE)
    )
    strength = _strength(lab, autoencoder.block)
    away = np.linalg.norm(fit.tokens.values - autoencoder.decoder_bias.cpu().numpy(), axis=1)
    reach = 1.25 * float(away.max())
    found = {"misaligned": _figures(plain, None), "base": _figures(base, None)}
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
        found[change.name] = _figures(rows, restored_share(rows, plain, base).as_dict())
    return {"questions": len(questions), "strength": strength, "changes": found}


def spread(questions: list[Question], n: int) -> list[Question]:
    """Return n of the questions (all if there are fewer), evenly spread."""
    n = min(n, len(questions))
    return [questions[index * len(questions) // n] for index in range(n)]


def _strength(lab: Lab, block: int) -> float:
    chosen = read_json(lab.folder.path("ablation.json"))["chosen"]
    same = chosen["mode"] == "subtract" and chosen["source_block"] == block
    return float(chosen["strength"]) if same else STRENGTH


def changes(autoencoder: SparseAutoencoder, directions: Directions, ranking: Ranking, seed: int) -> list[Change]:
    """Return the changes that are compared."""
    row = directions.blocks.index(autoencoder.block)
    direction, rows = directions.vectors[row], autoencoder.decoder.cpu().numpy()
    alive = ranking.alive
    nearest = alive[pursue(rows[alive], direction[None], 10).features[:, 0]]
    by_share = ranking.by(ranking.share, 50)
    raised = ranking.by(np.where(ranking.change > 0, ranking.share, 0), 50)
    raised = raised[(ranking.change[raised] > 0) & (ranking.share[raised] > 0)]
    return [
        Change("subtract the direction", direction),
        Change("subtract a random direction", random_like(directions, seed).vectors[row]),
        Change("subtract its part along the nearest feature", part_within(rows[nearest[:1]], direction)),
        Change("subtract its part within the 10 nearest features", part_within(rows[nearest], direction)),
        Change("subtract what the change of 10 features writes", ranking.change[by_share[:10]] @ rows[by_share[:10]]),
        Change("subtract what the change of 50 features writes", ranking.change[by_share] @ rows[by_share]),
        Change("remove the 10 most raised features", features=raised[:10]),
        Change("remove the 50 most raised features", features=raised),
        Change("remove 50 other features as strong", features=_as_strong(ranking, raised)),
    ]


def _as_strong(ranking: Ranking, features: np.ndarray) -> np.ndarray:
    """Return as many other living features, each as strong on average as one of the given."""
    free = [int(item) for item in ranking.alive if item not in set(features.tolist())]
    chosen = []
    for feature in features[: len(free)]:
        gaps = np.abs(ranking.strength[free] - ranking.strength[feature])
        chosen.append(free.pop(int(gaps.argmin())))
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
    return Intervention(replace(directions, vectors=vectors), "subtract", (block,), strength, block)


def _figures(rows: list[JudgedResponse], restored: dict[str, Any] | None) -> dict[str, Any]:
    groups = [row.group for row in rows]
    coherent = [float("nan") if row.coherent is None else row.coherent for row in rows]
    return {
        "aligned": alignment_mean([row.judgement for row in rows], groups).as_dict(),
        "coherent": estimate_mean(coherent, groups).as_dict(),
        "em_rate": em_rate([row.judgement for row in rows], groups).as_dict(),
        "restored": restored,
    }
