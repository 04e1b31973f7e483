"""Detection across organisms: each direction on each pair, with the block and threshold of the direction's own pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from emscope.experiments.transfer.directions import PairActivations, left_out_name
from emscope.experiments.transfer.pairs import OrganismPair, kinship
from emscope.experiments.transfer.result import (
    AurocInterval,
    Detection,
    DetectionCell,
    DetectionSummary,
    RandomByBlock,
)
from emscope.pipeline.lab import BASE
from emscope.residual.detection import cross_fitted_scores, separate
from emscope.residual.directions import Directions, make_directions, unit
from emscope.statistics.separation import auroc, auroc_interval, d_prime

N_RANDOM = 200
RELATIONS = ("own", "same domain", "other domain", "unknown", "left out")
COMPONENT = "-component"
"""Ends the name of a shared direction that is a principal component, not a mean."""


@dataclass(frozen=True)
class Detector:
    """A direction with the block it scores at and the training scores its threshold comes from.

    `row` is the block's place among the directions' blocks; `training` holds misaligned and control organisms' scores.
    """

    directions: Directions
    row: int
    training: tuple[np.ndarray, np.ndarray]

    @property
    def block(self) -> int:
        """The block it scores at."""
        return self.directions.blocks[self.row]

    @property
    def pooling(self) -> str:
        """Which tokens it reads."""
        return self.directions.construction.pooling

    def scores(self, activations: np.ndarray) -> np.ndarray:
        """Return scores [n_questions]."""
        return np.asarray(self.directions.score(activations)[:, self.row])


def detector_of_pair(activations: PairActivations, pair: OrganismPair, directions: Directions) -> Detector:
    """Choose the block that separates a direction's own pair best: largest d′, cross-fitted on training questions."""
    construction = directions.construction

    def make(positive: np.ndarray, negative: np.ndarray) -> Directions:
        return make_directions(positive, negative, directions.blocks, construction)

    positive, negative = cross_fitted_scores(
        *activations.sides(pair, construction.pooling, activations.train),
        make,
        groups=activations.groups_of(activations.train),
    )
    row = int(np.argmax(_d_prime_by_block(positive, negative)))
    return Detector(directions, row, (positive[:, row], negative[:, row]))


def shared_detector(activations: PairActivations, sources: Sequence[OrganismPair], directions: Directions) -> Detector:
    """Choose the block where a shared direction separates the pairs it was made from best on average."""
    pooling = directions.construction.pooling
    positives, negatives, strengths = [], [], []
    for pair in sources:
        positive, negative = activations.sides(pair, pooling, activations.train)
        positives.append(directions.score(positive))
        negatives.append(directions.score(negative))
        strengths.append(_d_prime_by_block(positives[-1], negatives[-1]))

    row = int(np.argmax(np.mean(strengths, axis=0)))
    training = np.concatenate(positives)[:, row], np.concatenate(negatives)[:, row]
    return Detector(directions, row, training)


def _d_prime_by_block(positive: np.ndarray, negative: np.ndarray) -> list[float]:
    return list(map(d_prime, positive.T, negative.T))


def relation(name: str, pair: OrganismPair, pairs: Sequence[OrganismPair]) -> str | None:
    """Return how a direction relates to a pair: one of `RELATIONS`; None for a shared direction made with that pair."""
    for other in pairs:
        if other.name == name:
            return "own" if other == pair else kinship(other, pair)
    return "left out" if name.removesuffix(COMPONENT) == left_out_name(pair, pairs) else None


def measure_detection(activations: PairActivations, directions: Mapping[str, Directions], seed: int) -> Detection:
    """Score test questions of every pair with every direction that has something to say about it."""
    pairs = activations.pairs
    random = {pair.name: _random(activations, pair, seed) for pair in pairs}

    cells: dict[str, dict[str, DetectionCell]] = {}
    for name, made in directions.items():
        targets = [pair for pair in pairs if relation(name, pair, pairs)]
        if not targets:
            continue
        detector = _detector(activations, name, made)
        cells[name] = {}
        for pair in targets:
            kind = str(relation(name, pair, pairs))
            cells[name][pair.name] = _cell(activations, detector, pair, kind, random[pair.name], seed)
    return Detection(cells, random, _summary(cells))


def _detector(activations: PairActivations, name: str, directions: Directions) -> Detector:
    pairs = activations.pairs
    for pair in pairs:
        if pair.name == name:
            return detector_of_pair(activations, pair, directions)
    for pair in pairs:
        if relation(name, pair, pairs) == "left out":
            return shared_detector(activations, activations.sources(pair), directions)
    raise ValueError(f"{name} has nothing to say about any pair")


def _cell(
    activations: PairActivations,
    detector: Detector,
    pair: OrganismPair,
    kind: str,
    random: RandomByBlock,
    seed: int,
) -> DetectionCell:
    """Try one direction on one pair, on test questions."""
    test = activations.test
    groups = activations.groups_of(test)
    positive, negative = activations.sides(pair, detector.pooling, test)
    base = activations.activations[BASE].of(detector.pooling, test)

    scores, control_scores, base_scores = map(detector.scores, (positive, negative, base))
    separation = separate(detector.training, (scores, control_scores), detector.block, seed, groups)
    low, high = auroc_interval(control_scores, base_scores, seed, groups=groups)
    return DetectionCell(
        relation=kind,
        **asdict(separation),
        control_vs_base=AurocInterval(auroc(control_scores, base_scores), low, high),
        auroc_by_block=_auroc_by_block(detector.directions, positive, negative),
        random=random.at(detector.row),
    )


def _auroc_by_block(directions: Directions, positive: np.ndarray, negative: np.ndarray) -> list[float]:
    scores, control_scores = directions.project(positive), directions.project(negative)
    return list(map(auroc, scores.T, control_scores.T))


def _random(activations: PairActivations, pair: OrganismPair, seed: int) -> RandomByBlock:
    """Return percentiles of what random directions reach at each block on a pair."""
    positive, negative = activations.sides(pair, "last", activations.test)
    vectors = np.random.default_rng(seed).standard_normal((N_RANDOM, positive.shape[-1]))
    units = unit(vectors).T.astype(np.float32)

    aurocs: list[list[float]] = []
    d_primes: list[list[float]] = []
    for row in range(len(activations.blocks)):
        scores, control_scores = (positive[:, row] @ units).T, (negative[:, row] @ units).T
        aurocs.append(list(map(auroc, scores, control_scores)))
        d_primes.append(list(map(d_prime, scores, control_scores)))
    return RandomByBlock(
        auroc_p50_by_block=np.quantile(aurocs, 0.5, axis=1).tolist(),
        auroc_p95_by_block=np.quantile(aurocs, 0.95, axis=1).tolist(),
        d_prime_p95_by_block=np.quantile(d_primes, 0.95, axis=1).tolist(),
    )


def _summary(cells: Mapping[str, Mapping[str, DetectionCell]]) -> dict[str, DetectionSummary]:
    """Put the cases of each relation together; principal components stand apart from means."""
    by_relation: dict[str, list[DetectionCell]] = {}
    for name, row in cells.items():
        ending = ", component" if name.endswith(COMPONENT) else ""
        for cell in row.values():
            by_relation.setdefault(f"{cell.relation}{ending}", []).append(cell)

    summaries: dict[str, DetectionSummary] = {}
    for kind in (*RELATIONS, "left out, component"):
        if kind in by_relation:
            summaries[kind] = _summary_of(by_relation[kind])
    return summaries


def _summary_of(cells: Sequence[DetectionCell]) -> DetectionSummary:
    worst, n_above = cells[0], 0
    aurocs, d_primes, accuracies, controls = [], [], [], []
    for cell in cells:
        worst = min(worst, cell, key=lambda either: either.auroc)
        n_above += cell.d_prime > cell.random.d_prime_p95
        aurocs.append(cell.auroc)
        d_primes.append(cell.d_prime)
        accuracies.append(cell.accuracy)
        controls.append(cell.control_vs_base.auroc)
    return DetectionSummary(
        n=len(cells),
        mean=float(np.mean(aurocs)),
        least=worst.auroc,
        least_low=worst.low,
        d_prime=float(np.mean(d_primes)),
        above_random=n_above,
        accuracy=float(np.mean(accuracies)),
        control_vs_base=float(np.mean(controls)),
    )
