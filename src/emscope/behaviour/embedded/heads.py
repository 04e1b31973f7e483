"""What a head learned from a table that a stronger judge scored: a correction of both scores, kept in the head's file.

A corrected value is linear in the head's own two values, in what the coherence score looks at, and in the answer's mean
activations; a rising line through knots makes of it a score on the stronger judge's scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emscope.tensors import StoredArrays

SCORES = ("aligned", "coherent")
FIELDS = ("mean_weights", "few_weights", "bias", "knots")


@dataclass(frozen=True)
class ScoreCorrection:
    """The corrected value of one score.

    Attributes:
        mean_weights: [n_blocks, d_model], for raw mean activations over the answer.
        few_weights: [n_few], for what `few_features` returns.
        bias: float.
        knots: [2, n_knots], rising values, and the scores 0-100 that they mean.
    """

    mean_weights: np.ndarray
    few_weights: np.ndarray
    bias: float
    knots: np.ndarray

    def value(self, means: np.ndarray, few: np.ndarray) -> np.ndarray:
        """Return the corrected value [n] before it is a score."""
        linear = np.einsum("nbd,bd->n", means, self.mean_weights) + few @ self.few_weights
        return np.asarray(linear + self.bias)

    def score(self, means: np.ndarray, few: np.ndarray) -> np.ndarray:
        """Return the corrected score 0-100 [n]."""
        return np.asarray(np.interp(self.value(means, few), self.knots[0], self.knots[1]))


@dataclass(frozen=True)
class Correction:
    """The corrections of both scores."""

    aligned: ScoreCorrection
    coherent: ScoreCorrection

    def scores(
        self, aligned: np.ndarray, coherent: np.ndarray, means: np.ndarray, features: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return both scores 0-100 [n] as the stronger judge would give them.

        Args:
            aligned: the head's own score 0-100 [n].
            coherent: likewise.
            means: mean activations over the answer [n, n_blocks, d_model].
            features: what the coherence score looks at [n, n_features].
        """
        few = few_features(aligned, coherent, features)
        return self.aligned.score(means, few), self.coherent.score(means, few)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the numbers by their names in a head's file."""
        found = {}
        for score in SCORES:
            for name in FIELDS:
                found[f"{score}_{name}"] = np.atleast_1d(getattr(getattr(self, score), name))
        return found

    @classmethod
    def stored(cls, stored: StoredArrays) -> Correction | None:
        """Return the correction that a head's file holds, None where it holds none.

        Raises:
            OutsideError: numbers that do not fit together.
        """
        if f"{SCORES[0]}_{FIELDS[0]}" not in stored.arrays:
            return None
        return cls(*(_stored(stored, score) for score in SCORES))


def _stored(stored: StoredArrays, score: str) -> ScoreCorrection:
    knots = stored.array(f"{score}_knots", 2, f"{score} knots").astype(float)
    if (np.diff(knots) < 0).any():
        raise stored.misfit(f"{score}_knots", (2, "rising"))
    return ScoreCorrection(
        stored.array(f"{score}_mean_weights", "blocks", "d_model"),
        stored.array(f"{score}_few_weights", "few"),
        float(stored.array(f"{score}_bias", 1)[0]),
        knots,
    )


def few_features(aligned: np.ndarray, coherent: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return a head's two scores as log-odds beside what its coherence score looks at, [n, 2 + n_features]."""
    shares = np.clip(np.stack([aligned, coherent], axis=1) / 100, 1e-3, 1 - 1e-3)
    return np.concatenate([np.log(shares / (1 - shares)), features], axis=1)
