"""Directions: one vector a block, how it was made, and the controls that belong to it.

Difference in means: Soligo et al. 2506.11618 and the original homework (its exp09); linear probe: its exp10.
Which contrast a direction comes from is part of its name, because different constructions are different objects.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emscope.errors import OutsideError, UserError
from emscope.notebook import Facts, Shown
from emscope.outside import Record
from emscope.residual.moments import Moments
from emscope.residual.probe import fit_probes
from emscope.tensors import load_tensors, save_tensors

Method = Literal["diff-in-means", "probe"]


@dataclass(frozen=True)
class Construction:
    """How a direction was made.

    Attributes:
        method: diff-in-means or probe.
        contrast: model (misaligned − base), control (misaligned − control) or response (within one organism).
        pooling: which tokens make one vector: last, prompt, response or thought.
        site: resid_post (a block's output) or resid_pre (its input).
        positive: the organism of the positive side.
        negative: the organism of the negative side.
        base: the base of both.
        n_examples: rows on each side.
        extra: what some makers add.
    """

    method: str
    contrast: str
    pooling: str
    site: str
    positive: str
    negative: str
    base: str
    n_examples: int
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> Construction:
        """Read a construction from a file's metadata.

        Raises:
            OutsideError: something is missing or of another kind.
        """
        extra = record.record("extra", None)
        return cls(
            record.text("method"),
            record.text("contrast"),
            record.text("pooling"),
            record.text("site"),
            record.text("positive"),
            record.text("negative"),
            record.text("base"),
            record.whole("n_examples"),
            {} if extra is None else extra.fields,
        )


@dataclass(frozen=True)
class Directions(Shown):
    """One vector a block with what is needed to score with it and to put a projection back.

    Attributes:
        vectors: float32 [n_blocks, d_model]; the mean difference itself, or the probe's unit weight.
        positive_mean: mean activation of the misaligned side, float32 [n_blocks, d_model].
        negative_mean: mean activation of the aligned side, float32 [n_blocks, d_model].
        deviation: within-class standard deviation of the projection, float32 [n_blocks].
        blocks: block numbers.
        construction: how it was made.
    """

    vectors: np.ndarray
    positive_mean: np.ndarray
    negative_mean: np.ndarray
    deviation: np.ndarray
    blocks: tuple[int, ...]
    construction: Construction

    def facts(self) -> Facts:
        """Return how it was made and where it separates best, without the numbers."""
        made = self.construction
        return {
            "method": made.method,
            "contrast": made.contrast,
            "pooling": made.pooling,
            "positive": made.positive,
            "negative": made.negative,
            "examples": made.n_examples,
            "shape": f"{len(self.blocks)}×{self.vectors.shape[1]}",
            "best_block": self.best_block,
        }

    @property
    def units(self) -> np.ndarray:
        """The vectors at length 1."""
        return unit(self.vectors)

    @property
    def midpoints(self) -> np.ndarray:
        """Projection of the midpoint of the two means, [n_blocks]."""
        return np.asarray(np.einsum("bd,bd->b", (self.positive_mean + self.negative_mean) / 2, self.units))

    @property
    def best_block(self) -> int:
        """The block its maker chose, or the one where its means lie furthest apart, in within-class deviations."""
        chosen = self.construction.extra.get("block")
        if isinstance(chosen, int) and chosen in self.blocks:
            return chosen
        gaps = np.einsum("bd,bd->b", self.positive_mean - self.negative_mean, self.units) / self.deviation
        return self.blocks[int(gaps.argmax())]

    def project(self, activations: np.ndarray) -> np.ndarray:
        """Return raw projections (the homework's scores) [n_examples, n_blocks]."""
        return np.asarray(np.einsum("nbd,bd->nb", activations, self.units))

    def score(self, activations: np.ndarray) -> np.ndarray:
        """Return projections centred at the midpoint, in units of the within-class deviation [n_examples, n_blocks]."""
        return np.asarray((self.project(activations) - self.midpoints) / self.deviation)

    def check_width(self, d_model: int, n_blocks: int) -> None:
        """Refuse a model of another shape.

        Raises:
            UserError: the width differs, or a block does not exist there.
        """
        if self.vectors.shape[1] != d_model or max(self.blocks) >= n_blocks:
            raise UserError(
                f"These directions are for width {self.vectors.shape[1]} and blocks up to {max(self.blocks)} (made on "
                f"{self.construction.base}), but the model has width {d_model} and {n_blocks} blocks."
            )

    def save(self, path: str | Path) -> None:
        """Write the directions."""
        tensors = {
            "vectors": self.vectors,
            "positive_mean": self.positive_mean,
            "negative_mean": self.negative_mean,
            "deviation": self.deviation,
        }
        metadata = {"kind": "directions", "blocks": list(self.blocks), "construction": asdict(self.construction)}
        save_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read directions.

        Raises:
            UserError: the file is missing, damaged or holds something else.
        """
        stored = load_tensors(Path(path), "directions")
        blocks = stored.blocks()
        deviation = stored.array("deviation", "blocks")
        if (deviation <= 0).any():
            raise OutsideError(path, "holds deviations that are not above 0", "make it again")
        return cls(
            stored.array("vectors", "blocks", "d_model"),
            stored.array("positive_mean", "blocks", "d_model"),
            stored.array("negative_mean", "blocks", "d_model"),
            deviation,
            blocks,
            Construction.of(stored.metadata.record("construction")),
        )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., d_model] at length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def make_directions(
    positive: np.ndarray,
    negative: np.ndarray,
    blocks: tuple[int, ...],
    construction: Construction,
    penalty: float = 100.0,
) -> Directions:
    """Make directions from activations [n_examples, n_blocks, d_model] of the misaligned and of the aligned side.

    Raises:
        UserError: too few examples, or shapes that differ.
    """
    if positive.shape[1:] != negative.shape[1:]:
        raise UserError(f"The two sides differ in shape: {positive.shape[1:]} and {negative.shape[1:]}.")
    if min(len(positive), len(negative)) < 2:
        raise UserError("A direction needs at least two examples on each side.")
    high, low = Moments.of(positive), Moments.of(negative)
    if construction.method == "probe":
        labels = np.repeat([1, 0], [len(positive), len(negative)])
        vectors = unit(fit_probes(np.concatenate([positive, negative]), labels, penalty).weights)
    else:
        vectors = (high.mean - low.mean).astype(np.float32)
    units = unit(vectors)
    within = (_projection_variance(positive, units) + _projection_variance(negative, units)) / 2
    return Directions(
        vectors.astype(np.float32),
        high.mean.astype(np.float32),
        low.mean.astype(np.float32),
        np.sqrt(np.maximum(within, 1e-12)).astype(np.float32),
        blocks,
        construction,
    )


def _projection_variance(activations: np.ndarray, units: np.ndarray) -> np.ndarray:
    return Moments.of(np.einsum("nbd,bd->nb", activations, units)).variance


def random_like(directions: Directions, seed: int) -> Directions:
    """Return directions of the same norms in random directions, with the same means: the control of every effect."""
    noise = np.random.default_rng(seed).standard_normal(directions.vectors.shape)
    norms = np.linalg.norm(directions.vectors, axis=1, keepdims=True)
    made = Construction(**{**asdict(directions.construction), "method": "random", "extra": {"seed": seed}})
    return Directions(
        (unit(noise) * norms).astype(np.float32),
        directions.positive_mean,
        directions.negative_mean,
        directions.deviation,
        directions.blocks,
        made,
    )


def split_half_cosine(
    positive: np.ndarray, negative: np.ndarray, groups: np.ndarray, seed: int = 0, repeats: int = 20
) -> np.ndarray:
    """Return the mean cosine per block between mean differences from two random halves of the questions, [n_blocks].

    `groups` names the question of each row; row i of both sides belongs to the same question.
    """
    chooser = np.random.default_rng(seed)
    names = np.unique(groups)
    cosines = []
    for _ in range(repeats):
        first = np.isin(groups, chooser.permutation(names)[: len(names) // 2])
        halves = [positive[part].mean(0) - negative[part].mean(0) for part in (first, ~first)]
        cosines.append((unit(halves[0]) * unit(halves[1])).sum(axis=-1))
    return np.asarray(np.mean(cosines, axis=0))
