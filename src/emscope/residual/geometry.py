"""Geometry of directions: their cosines, the angles between the subspaces they span, and what they have in common.

Vectors are taken at length 1 and worked with in float64: a model's few massive dimensions would swallow float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

import numpy as np

from emscope.errors import UserError
from emscope.residual.directions import Directions, unit
from emscope.statistics.bootstrap import (
    RESAMPLES,
    bca_interval,
    draw_questions,
    resampling_units,
    widened_z,
)

Sharing = Literal["mean", "component"]
SHARINGS: tuple[Sharing, ...] = ("mean", "component")
DEPENDENT = 1e-6


@dataclass(frozen=True)
class Cosines:
    """Cosines between directions with 95 % intervals, each [n_directions, n_directions, n_blocks]."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of each two directions [n_directions, n_blocks, d_model]: [n, n, n_blocks]."""
    units = unit(vectors.astype(np.float64))
    return np.asarray(np.einsum("ibd,jbd->ijb", units, units))


def estimate_cosines(
    differences: np.ndarray, groups: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Cosines:
    """Return cosines between mean differences, with intervals from drawing questions, the same ones for all directions.

    The last entry along the blocks is the mean over blocks. With one question the intervals are NaN.

    Args:
        differences: misaligned less aligned of each question, [n_directions, n_questions, n_blocks, d_model].
        groups: what is drawn together, one a question.
        seed: of the draws.
        resamples: how many draws.
    """
    codes = resampling_units(groups)
    n_units = int(codes.max()) + 1
    draws = draw_questions(n_units, seed, resamples)
    weights = np.concatenate([np.ones((1, n_units)), 1 - np.eye(n_units), draws])[:, codes]
    by_block = _weighted_cosines(differences.astype(np.float64), weights)
    weighted = np.concatenate([by_block, by_block.mean(axis=2, keepdims=True)], axis=2)
    value, left_out, drawn = weighted[..., 0], weighted[..., 1 : n_units + 1], weighted[..., n_units + 1 :]
    low = high = np.full_like(value, np.nan)
    if n_units > 1:
        low, high = bca_interval(drawn, value, left_out, widened_z(n_units))
    same = np.eye(len(value), dtype=bool)[:, :, None]  # a direction is itself in every draw, up to rounding
    return Cosines(np.where(same, 1, value), np.where(same, 1, low), np.where(same, 1, high))


def _weighted_cosines(differences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return cosines [n, n, n_blocks, rows] between the mean differences under each row of weights.

    The vectors of a draw are never formed: their products are wᵀGw, with G the products of the questions' differences.
    """
    n, _, n_blocks, _ = differences.shape
    products = np.empty((n, n, n_blocks, len(weights)))
    by_block = np.ascontiguousarray(differences.transpose(0, 2, 1, 3))
    for first in range(n):
        for second in range(first, n):
            gram = by_block[first] @ by_block[second].transpose(0, 2, 1)
            products[first, second] = products[second, first] = np.einsum("bwq,wq->bw", weights @ gram, weights)
    squares = np.sqrt(np.einsum("iibw->ibw", products))
    return np.asarray(products / np.maximum(squares[:, None] * squares[None, :], np.finfo(float).tiny))


def principal_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the principal angles between two subspaces at every block, radians ascending [n_blocks, min(k, m)].

    Singular values of QₐᵀQ_b are the cosines (Björck & Golub 1973, Math. Comp. 27:579); small angles come from the
    sines, the singular values of Q_b − QₐQₐᵀQ_b, because an arc cosine near 1 has no digits left.

    Args:
        first: vectors that span the one, [n_blocks, k, d_model].
        second: vectors that span the other, [n_blocks, m, d_model].

    Raises:
        UserError: vectors that depend on each other linearly, and so do not span as many dimensions as they are.
    """
    wide, narrow = sorted((_basis(first), _basis(second)), key=lambda basis: -basis.shape[-1])
    overlap = wide.transpose(0, 2, 1) @ narrow
    cosine = np.linalg.svd(overlap, compute_uv=False)
    sine = np.linalg.svd(narrow - wide @ overlap, compute_uv=False)[:, ::-1]
    return np.asarray(np.where(cosine**2 > 0.5, np.arcsin(np.clip(sine, 0, 1)), np.arccos(np.clip(cosine, 0, 1))))


def _basis(vectors: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of each block's span, [n_blocks, d_model, k]."""
    columns = unit(vectors.astype(np.float64)).transpose(0, 2, 1)
    basis, triangle = np.linalg.qr(columns)
    if columns.shape[1] < columns.shape[2] or np.abs(np.diagonal(triangle, axis1=1, axis2=2)).min() < DEPENDENT:
        raise UserError("These directions depend on each other linearly: leave out copies to measure angles.")
    return np.asarray(basis)


def random_angles(d_model: int, first: int, second: int, seed: int = 0, draws: int = 100) -> np.ndarray:
    """Return the mean principal angles between random subspaces of these dimensions, radians ascending."""
    chooser = np.random.default_rng(seed)
    one, other = chooser.standard_normal((draws, first, d_model)), chooser.standard_normal((draws, second, d_model))
    return np.asarray(principal_angles(one, other).mean(axis=0))


def shared_vectors(vectors: np.ndarray, how: Sharing = "mean") -> np.ndarray:
    """Return what directions [n_directions, n_blocks, d_model] have in common, [n_blocks, d_model].

    `mean` is the mean of the unit vectors, `component` their first principal component, uncentred, on the side of the
    mean; either is as long as the directions are on average.
    """
    units = unit(vectors.astype(np.float64))
    axis = units.mean(axis=0)
    if how == "component":
        first = np.linalg.svd(units.transpose(1, 0, 2), full_matrices=False)[2][:, 0]
        axis = first * np.where((first * axis).sum(axis=-1, keepdims=True) < 0, -1, 1)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1).mean(axis=0)
    return np.asarray(unit(axis) * norms[:, None])


def component_share(vectors: np.ndarray) -> np.ndarray:
    """Return the share of the unit vectors' squared length along their first principal component, [n_blocks].

    It is 1 where n directions are one, and 1/n where they are orthogonal.
    """
    units = unit(vectors.astype(np.float64)).transpose(1, 0, 2)
    return np.asarray(np.linalg.svd(units, compute_uv=False)[:, 0] ** 2 / units.shape[1])


def shared_directions(directions: Sequence[Directions], how: Sharing = "mean") -> Directions:
    """Return the shared direction of several organisms' directions, which scores and ablates like any other.

    Its means are those of the directions averaged, its deviation their root mean square.

    Raises:
        UserError: no directions, or ones of other blocks, poolings, contrasts or sites.
    """
    if not directions:
        raise UserError("A shared direction needs at least one direction.")
    first = directions[0]
    for other in directions[1:]:
        if _comparable(other) != _comparable(first):
            raise UserError("A shared direction needs directions of the same blocks, pooling, contrast and site.")

    constructions = [each.construction for each in directions]
    construction = replace(
        first.construction,
        method=f"shared-{how}",
        positive="+".join(map(attrgetter("positive"), constructions)),
        negative="+".join(map(attrgetter("negative"), constructions)),
    )
    return Directions(
        shared_vectors(np.stack([each.vectors for each in directions]), how).astype(np.float32),
        _average([each.positive_mean for each in directions]),
        _average([each.negative_mean for each in directions]),
        np.sqrt(_average([each.deviation**2 for each in directions])),
        first.blocks,
        construction,
    )


def _comparable(directions: Directions) -> tuple[object, ...]:
    """Return what directions must have in common to be averaged."""
    construction = directions.construction
    return directions.blocks, construction.pooling, construction.contrast, construction.site


def _average(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.stack(arrays).mean(axis=0, dtype=np.float64).astype(np.float32))
