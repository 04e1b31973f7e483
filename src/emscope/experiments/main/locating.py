"""All directions of a run and everything they detect: two contrasts, two token positions, two methods.

The direction that detects need not be the one that corrects: prompts' last tokens detect, answer tokens correct. A
block is chosen by the least distance of the misaligned organism from any harmless one: where the base lies beside the
misaligned organism and the control alone apart, a direction detects the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from emscope.experiments.main.result import DirectionDetection, PairDetection, Stability
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED
from emscope.residual.detection import Separation, cross_fitted_scores, separate
from emscope.residual.directions import Construction, Directions, make_directions, random_like, split_half_cosine, unit
from emscope.residual.store import OrganismActivations, answered
from emscope.statistics.separation import auroc, d_prime

METHODS = ("diff-in-means", "probe")
CHOSEN_BLOCKS = 4
BLOCK_RULE = "least distance from a harmless organism"
"""How the block is chosen that a direction is read at; part of what stages depend on."""
Scores = Mapping[str, np.ndarray]
"""By organism, scores [n_questions, n_blocks]."""


@dataclass(frozen=True)
class MadeDirections:
    """Directions by name, and how firm they are.

    Attributes:
        directions: by name, contrast-pooling-method; each has a random control of the same length, ending in -random.
        stability: by the name of a difference in means, its split-half cosines.
        cosines: by two names, the cosine between the directions, mean over blocks.
    """

    directions: dict[str, Directions]
    stability: dict[str, Stability]
    cosines: dict[str, dict[str, float]]


def _contrasts(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the two sides of each contrast, the misaligned one first."""
    contrasts = {"model": (MISALIGNED, BASE)}
    if CONTROL in names:
        contrasts["control"] = (MISALIGNED, CONTROL)
    return contrasts


def make_all(
    activations: Mapping[str, OrganismActivations],
    train: Sequence[str],
    base: str,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> MadeDirections:
    """Make every direction on the training questions, a random control beside each, and their split-half cosines.

    `groups` gives, by question, what halves keep together (`Question.group`); by default the question itself.
    """
    directions: dict[str, Directions] = {}
    stability: dict[str, Stability] = {}
    questions = answered(activations, train)
    halved = np.array(_groups(groups, questions))
    for contrast, (first, second) in _contrasts(list(activations)).items():
        blocks = activations[first].prompts.activations.blocks
        for pooling in ("last", "response"):
            positive, negative = (activations[name].of(pooling, questions) for name in (first, second))
            for method in METHODS:
                name = f"{contrast}-{pooling}-{method}"
                construction = Construction(
                    method, contrast, pooling, "resid_post", first, second, base, len(questions)
                )
                made = make_directions(positive, negative, blocks, construction)
                training = _training_scores(activations, questions, halved.tolist(), made)
                directions[name] = at_block(made, least_strengths(training))
                directions[f"{name}-random"] = random_like(directions[name], seed)
            cosines = split_half_cosine(positive, negative, halved, seed)
            stability[f"{contrast}-{pooling}-diff-in-means"] = Stability(tuple(map(float, cosines)), len(questions))
    return MadeDirections(directions, stability, _cosines(directions))


def at_block(directions: Directions, strengths: Sequence[float]) -> Directions:
    """Return directions that carry the block where they are strongest."""
    made = directions.construction
    block = directions.blocks[int(np.argmax(strengths))]
    return replace(directions, construction=replace(made, extra={**made.extra, "block": block}))


def least_strengths(training: Scores) -> list[float]:
    """Return by block the least d' of the misaligned organism's scores from those of the base and of the control."""
    by_organism = []
    for name in training:
        if name != MISALIGNED:
            pairs = zip(training[MISALIGNED].T, training[name].T, strict=True)
            by_organism.append([d_prime(positive, negative) for positive, negative in pairs])
    return [min(strengths) for strengths in zip(*by_organism, strict=True)]


def _groups(groups: Mapping[str, str] | None, questions: Sequence[str]) -> list[str]:
    return list(questions) if groups is None else [groups[question] for question in questions]


def _cosines(directions: Mapping[str, Directions]) -> dict[str, dict[str, float]]:
    """Return the cosine between each two directions that are not random, averaged over blocks."""
    units = {name: unit(made.vectors) for name, made in directions.items() if "random" not in name}
    cosines: dict[str, dict[str, float]] = {}
    for name, vectors in units.items():
        cosines[name] = {}
        for other, theirs in units.items():
            cosines[name][other] = float((vectors * theirs).sum(-1).mean())
    return cosines


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield MISALIGNED, BASE
    if CONTROL in names:
        yield MISALIGNED, CONTROL
        yield CONTROL, BASE


def detect_all(
    activations: Mapping[str, OrganismActivations],
    directions: Mapping[str, Directions],
    train: Sequence[str],
    test: Sequence[str],
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> dict[str, DirectionDetection]:
    """Score every organism with every direction; blocks and thresholds come from training questions.

    `groups` gives, by question, what folds keep together and intervals resample; by default the question itself.
    """
    train, test = answered(activations, train), answered(activations, test)
    detect = partial(_detect, activations, train, test, _groups(groups, train), _groups(groups, test), seed)
    return {name: detect(made) for name, made in directions.items()}


def _detect(
    activations: Mapping[str, OrganismActivations],
    train: Sequence[str],
    test: Sequence[str],
    train_groups: Sequence[str],
    test_groups: Sequence[str],
    seed: int,
    directions: Directions,
) -> DirectionDetection:
    construction, blocks = directions.construction, directions.blocks
    training = _training_scores(activations, train, train_groups, directions)
    heldout: dict[str, np.ndarray] = {}
    raw: dict[str, tuple[float, ...]] = {}
    for name, stored in activations.items():
        pooled = stored.of(construction.pooling, test)
        heldout[name] = directions.score(pooled)
        raw[name] = tuple(directions.project(pooled).mean(axis=0).tolist())

    strength = least_strengths(training)
    best = int(np.argmax(strength))
    chosen = sorted(np.argsort(strength)[::-1][:CHOSEN_BLOCKS].tolist())

    pairs = {}
    for first, second in _pairs(list(activations)):
        separated = partial(_separation, training, heldout, (first, second), test_groups, seed, blocks[best])
        by_block = [auroc(heldout[first][:, row], heldout[second][:, row]) for row in range(len(blocks))]
        pairs[f"{first}-vs-{second}"] = PairDetection(separated([best]), separated(chosen), tuple(by_block))

    return DirectionDetection(
        construction=construction,
        best_block=blocks[best],
        chosen_blocks=tuple(blocks[row] for row in chosen),
        pairs=pairs,
        questions=tuple(test),
        scores={name: tuple(values[:, best].tolist()) for name, values in heldout.items()},
        mean_score_by_block={name: tuple(values.mean(axis=0).tolist()) for name, values in heldout.items()},
        raw_score_by_block=raw,
    )


def _training_scores(
    activations: Mapping[str, OrganismActivations],
    train: Sequence[str],
    groups: Sequence[str],
    directions: Directions,
) -> dict[str, np.ndarray]:
    """Return the scores of training questions; those of a difference in means from directions made without them."""
    construction = directions.construction
    pooled = {name: stored.of(construction.pooling, train) for name, stored in activations.items()}
    scores = {name: directions.score(values) for name, values in pooled.items()}
    if construction.method != "diff-in-means":
        return scores

    def remade(positive: np.ndarray, negative: np.ndarray) -> Directions:
        return make_directions(positive, negative, directions.blocks, construction)

    positive, negative = construction.positive, construction.negative
    scores[positive], scores[negative] = cross_fitted_scores(pooled[positive], pooled[negative], remade, groups=groups)
    return scores


def _separation(
    training: Scores,
    heldout: Scores,
    pair: tuple[str, str],
    groups: Sequence[str],
    seed: int,
    label: int,
    rows: Sequence[int],
) -> Separation:
    """Separate two organisms by their mean score over some blocks; `label` is the block that is named."""
    first, second = pair
    train = training[first][:, rows].mean(axis=1), training[second][:, rows].mean(axis=1)
    test = heldout[first][:, rows].mean(axis=1), heldout[second][:, rows].mean(axis=1)
    return separate(train, test, label, seed, groups)
