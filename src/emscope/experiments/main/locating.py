"""All directions of a run and everything they detect: two contrasts, two token positions, two methods.

The direction that detects need not be the one that corrects: prompts' last tokens detect, answer tokens correct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED
from emscope.residual.detection import cross_fitted_scores, separate
from emscope.residual.directions import Construction, Directions, make_directions, random_like, split_half_cosine, unit
from emscope.residual.store import OrganismActivations, answered
from emscope.statistics.separation import auroc, d_prime

METHODS = ("diff-in-means", "probe")
CHOSEN_BLOCKS = 4


@dataclass(frozen=True)
class MadeDirections:
    """Directions by name, and their stability figures."""

    directions: dict[str, Directions]
    stability: dict[str, Any]


def _contrasts(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    found = {"model": (MISALIGNED, BASE)}
    return {**found, "control": (MISALIGNED, CONTROL)} if CONTROL in names else found


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
    stability: dict[str, Any] = {}
    questions = answered(activations, train)
    halved = np.array(_groups(groups, questions))
    for contrast, (high, low) in _contrasts(list(activations)).items():
        for pooling in ("last", "response"):
            positive, negative = (activations[name].of(pooling, questions) for name in (high, low))
            for method in METHODS:
                name = f"{contrast}-{pooling}-{method}"
                made = Construction(method, contrast, pooling, "resid_post", high, low, base, len(questions))
                blocks = activations[high].prompts.activations.blocks
                directions[name] = make_directions(positive, negative, blocks, made)
                directions[f"{name}-random"] = random_like(directions[name], seed)
            cosines = split_half_cosine(positive, negative, halved, seed)
            stability[f"{contrast}-{pooling}-diff-in-means"] = {
                "split_half_cosine": [float(value) for value in cosines],
                "n_questions": len(questions),
            }
    stability["cosines"] = _cosines({name: item for name, item in directions.items() if "random" not in name})
    return MadeDirections(directions, stability)


def _groups(groups: Mapping[str, str] | None, questions: Sequence[str]) -> list[str]:
    return [question if groups is None else groups[question] for question in questions]


def _cosines(directions: Mapping[str, Directions]) -> dict[str, dict[str, float]]:
    """Return the cosine between each two directions, averaged over blocks."""
    units = {name: unit(item.vectors) for name, item in directions.items()}
    return {one: {two: float((units[one] * units[two]).sum(-1).mean()) for two in units} for one in units}


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
) -> dict[str, Any]:
    """Score every organism with every direction; blocks and thresholds come from training questions.

    `groups` gives, by question, what folds keep together and intervals resample; by default the question itself.

    Returns, for each direction: the blocks chosen, and for each pair of organisms the separation at every block, at
    the best one, and over the chosen ones; and the scores themselves.
    """
    parts = answered(activations, train), answered(activations, test)
    own, fresh = (_groups(groups, part) for part in parts)
    return {name: _detect_with(activations, item, parts, (own, fresh), seed) for name, item in directions.items()}


def _detect_with(
    activations: Mapping[str, OrganismActivations],
    directions: Directions,
    parts: tuple[list[str], list[str]],
    groups: tuple[list[str], list[str]],
    seed: int,
) -> dict[str, Any]:
    train, test = parts
    made = directions.construction
    own = {name: part.of(made.pooling, train) for name, part in activations.items()}
    heldout = {name: directions.score(part.of(made.pooling, test)) for name, part in activations.items()}
    training = {name: directions.score(array) for name, array in own.items()}
    if made.method == "diff-in-means":
        fitted = cross_fitted_scores(
            own[made.positive],
            own[made.negative],
            lambda high, low: make_directions(high, low, directions.blocks, made),
            groups=groups[0],
        )
        training[made.positive], training[made.negative] = fitted
    n_blocks = len(directions.blocks)
    strength = [d_prime(training[made.positive][:, b], training[made.negative][:, b]) for b in range(n_blocks)]
    best = int(np.argmax(strength))
    chosen = sorted(np.argsort(strength)[::-1][:CHOSEN_BLOCKS].tolist())
    pairs = {}
    for high, low in _pairs(list(activations)):
        at = _separator(training, heldout, (high, low), groups[1], seed)
        pairs[f"{high}-vs-{low}"] = {
            "best": asdict(at([best], directions.blocks[best])),
            "chosen": asdict(at(chosen, directions.blocks[best])),
            "auroc_by_block": [auroc(heldout[high][:, b], heldout[low][:, b]) for b in range(n_blocks)],
        }
    raw = {name: directions.project(part.of(made.pooling, test)).mean(axis=0) for name, part in activations.items()}
    return {
        "construction": asdict(made),
        "best_block": directions.blocks[best],
        "chosen_blocks": [directions.blocks[index] for index in chosen],
        "pairs": pairs,
        "questions": list(test),
        "scores": {name: values[:, best].tolist() for name, values in heldout.items()},
        "mean_score_by_block": {name: values.mean(axis=0).tolist() for name, values in heldout.items()},
        "raw_score_by_block": {name: values.tolist() for name, values in raw.items()},
    }


def _separator(
    training: Mapping[str, np.ndarray],
    heldout: Mapping[str, np.ndarray],
    pair: tuple[str, str],
    groups: Sequence[str],
    seed: int,
) -> Any:
    """Return a function that separates two organisms by their mean score over some blocks."""
    high, low = pair

    def at(blocks: Sequence[int], label: int) -> Any:
        first, second = (
            (side[high][:, blocks].mean(axis=1), side[low][:, blocks].mean(axis=1)) for side in (training, heldout)
        )
        return separate(first, second, label, seed, groups)

    return at
