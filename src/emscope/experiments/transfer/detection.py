"""Detection across organisms: each direction on each pair, with the block and threshold of the direction's own pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emscope.experiments.transfer.directions import Bank, left_out_name
from emscope.experiments.transfer.pairs import OrganismPair, kinship
from emscope.pipeline.lab import BASE
from emscope.residual.detection import auroc, auroc_interval, cross_fitted_scores, d_prime, separate
from emscope.residual.directions import Directions, make_directions, unit

N_RANDOM = 200
RELATIONS = ("own", "same domain", "other domain", "unknown", "left out")


@dataclass(frozen=True)
class Detector:
    """A direction with the block it scores at and the training scores its threshold comes from.

    `row` is the block's place among the directions' blocks; `training` holds misaligned and control organisms' scores.
    """

    directions: Directions
    row: int
    training: tuple[np.ndarray, np.ndarray]

    def scores(self, activations: np.ndarray) -> np.ndarray:
        """Return scores [n_questions]."""
        return np.asarray(self.directions.score(activations)[:, self.row])


def own_detector(bank: Bank, pair: OrganismPair, directions: Directions) -> Detector:
    """Choose the block that separates a direction's own pair best: largest d′, cross-fitted on training questions."""
    made = directions.construction
    scores = cross_fitted_scores(
        *bank.sides(pair, made.pooling, bank.train),
        lambda high, low: make_directions(high, low, directions.blocks, made),
        groups=[bank.groups[question] for question in bank.train],
    )
    row = int(np.argmax(_strengths(*scores)))
    return Detector(directions, row, (scores[0][:, row], scores[1][:, row]))


def shared_detector(bank: Bank, sources: Sequence[OrganismPair], directions: Directions) -> Detector:
    """Choose the block where a shared direction separates the pairs it was made from best on average."""
    pooling = directions.construction.pooling
    scores = [tuple(directions.score(side) for side in bank.sides(pair, pooling, bank.train)) for pair in sources]
    row = int(np.argmax(np.mean([_strengths(high, low) for high, low in scores], axis=0)))
    training = [np.concatenate([pair[side][:, row] for pair in scores]) for side in (0, 1)]
    return Detector(directions, row, (training[0], training[1]))


def _strengths(high: np.ndarray, low: np.ndarray) -> list[float]:
    return [d_prime(high[:, block], low[:, block]) for block in range(high.shape[1])]


def relation(name: str, pair: OrganismPair, pairs: Sequence[OrganismPair]) -> str | None:
    """Return how a direction relates to a pair: one of `RELATIONS`; None for a shared direction made with that pair."""
    for other in pairs:
        if other.name == name:
            return "own" if other == pair else kinship(other, pair)
    return "left out" if name.removesuffix("-component") == left_out_name(pair, pairs) else None


def detection_figures(bank: Bank, directions: Mapping[str, Directions], seed: int) -> dict[str, Any]:
    """Score test questions of every pair with every direction that has something to say about it.

    Keys: `cells.<direction>.<pair>` with `relation`, the separation of misaligned from control (`auroc, low, high,
    d_prime, separation, accuracy, block`), `control_vs_base` (`auroc, low, high`), `auroc_by_block`, and `random`:
    percentiles of 200 random directions at the same block on the same pair, `auroc_p50`, `auroc_p95`, `d_prime_p95`;
    `random.<pair>`: the same percentiles `…_by_block`; `summary.<relation>`.
    """
    randoms = {pair.name: _random(bank, pair, seed) for pair in bank.pairs}
    cells: dict[str, dict[str, Any]] = {}
    for name, item in directions.items():
        targets = [pair for pair in bank.pairs if relation(name, pair, bank.pairs)]
        if targets:
            detector = _detector(bank, name, item)
            cells[name] = {
                pair.name: {
                    **_cell(bank, name, detector, pair, seed),
                    "random": {
                        key.removesuffix("_by_block"): values[detector.row]
                        for key, values in randoms[pair.name].items()
                    },
                }
                for pair in targets
            }
    return {"cells": cells, "random": randoms, "summary": _summary(cells)}


def _detector(bank: Bank, name: str, directions: Directions) -> Detector:
    own = {pair.name: pair for pair in bank.pairs}
    if name in own:
        return own_detector(bank, own[name], directions)
    left_out = next(pair for pair in bank.pairs if relation(name, pair, bank.pairs) == "left out")
    return shared_detector(bank, bank.sources(left_out), directions)


def _cell(bank: Bank, name: str, detector: Detector, pair: OrganismPair, seed: int) -> dict[str, Any]:
    pooling = detector.directions.construction.pooling
    high, low = bank.sides(pair, pooling, bank.test)
    base = bank.activations[BASE].of(pooling, bank.test)
    block = detector.directions.blocks[detector.row]
    first, second, third = (detector.scores(part) for part in (high, low, base))
    groups = [bank.groups[question] for question in bank.test]
    bounds = auroc_interval(second, third, seed, groups=groups)
    every = [detector.directions.project(part) for part in (high, low)]
    return {
        "relation": relation(name, pair, bank.pairs),
        **asdict(separate(detector.training, (first, second), block, seed, groups)),
        "control_vs_base": {"auroc": auroc(second, third), "low": bounds[0], "high": bounds[1]},
        "auroc_by_block": [auroc(every[0][:, row], every[1][:, row]) for row in range(every[0].shape[1])],
    }


def _random(bank: Bank, pair: OrganismPair, seed: int) -> dict[str, list[float]]:
    """Return percentiles of what random directions reach at each block on a pair."""
    high, low = bank.sides(pair, "last", bank.test)
    units = unit(np.random.default_rng(seed).standard_normal((N_RANDOM, high.shape[-1]))).T.astype(np.float32)
    found = np.array([_along(high[:, row], low[:, row], units) for row in range(len(bank.blocks))])
    return {
        "auroc_p50_by_block": np.quantile(found[:, 0], 0.5, axis=1).tolist(),
        "auroc_p95_by_block": np.quantile(found[:, 0], 0.95, axis=1).tolist(),
        "d_prime_p95_by_block": np.quantile(found[:, 1], 0.95, axis=1).tolist(),
    }


def _along(high: np.ndarray, low: np.ndarray, units: np.ndarray) -> list[list[float]]:
    """Return AUROC and d′ of activations [n_questions, d_model] along each of some vectors [d_model, n], [2][n]."""
    ones, others = (high @ units).T, (low @ units).T
    return [[measure(*sides) for sides in zip(ones, others, strict=True)] for measure in (auroc, d_prime)]


def _summary(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and least AUROC with its low end, mean d′, accuracy and control vs base, by relation.

    `above_random` counts the cells whose d′ is above that of 95 % of random directions in the same cell.
    """
    found: dict[str, Any] = {}
    for kind in (*RELATIONS, "left out, component"):
        wanted = [
            cell
            for name, row in cells.items()
            for cell in row.values()
            if cell["relation"] + (", component" if name.endswith("-component") else "") == kind
        ]
        if wanted:
            worst = min(wanted, key=lambda cell: float(cell["auroc"]))
            found[kind] = {
                "n": len(wanted),
                "mean": float(np.mean([cell["auroc"] for cell in wanted])),
                "least": worst["auroc"],
                "least_low": worst["low"],
                "d_prime": float(np.mean([cell["d_prime"] for cell in wanted])),
                "above_random": sum(cell["d_prime"] > cell["random"]["d_prime_p95"] for cell in wanted),
                "accuracy": float(np.mean([cell["accuracy"] for cell in wanted])),
                "control_vs_base": float(np.mean([cell["control_vs_base"]["auroc"] for cell in wanted])),
            }
    return found
