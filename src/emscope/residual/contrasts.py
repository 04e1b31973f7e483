"""Contrasts as labelled examples: what two sets of activations differ in, with both sides balanced by question.

Two sets of rows make the examples of a contrast: two organisms on the same questions (`model`, `control`), or one
organism's misaligned and aligned answers (`response`; Soligo et al. 2506.11618). Both sides are balanced by question as
far as possible, so that what a question is about cannot pass for misalignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from emscope.errors import UserError
from emscope.residual.directions import Construction

CONTRASTS = ("model", "control", "response")
EXAMPLE_POOLINGS = ("last", "prompt", "response", "token")
LEVELS = ("question", "area", "whole")
ENOUGH_QUESTIONS = 12


@dataclass(frozen=True)
class Rows:
    """Pooled vectors of one side.

    Attributes:
        activations: float32 [n, n_blocks, d_model].
        questions: the question of each row.
        areas: the part of life of each row's question.
        sizes: how much each row counts: 1, or its tokens where every token counts the same.
        groups: what each row's question is one wording of, by default the question itself.
    """

    activations: np.ndarray
    questions: np.ndarray
    areas: np.ndarray
    sizes: np.ndarray
    groups: np.ndarray = field(default_factory=lambda: np.array([]))

    def __post_init__(self) -> None:
        """Let a question be its own group."""
        if len(self.groups) != len(self.questions):
            object.__setattr__(self, "groups", self.questions)

    def where(self, keep: np.ndarray) -> Rows:
        """Return some of the rows."""
        parts = (self.activations, self.questions, self.areas, self.sizes, self.groups)
        return Rows(*(part[keep] for part in parts))


@dataclass(frozen=True)
class Balance:
    """How many examples of a contrast count, and how its two sides are balanced.

    Attributes:
        positive: rows on the misaligned side that count.
        negative: rows on the aligned side that count.
        questions: questions with rows that count.
        by_question: rows balanced against others of the same question.
        by_area: rows balanced against others of the same area.
        by_whole: rows balanced against all others that were left.
        unused: rows that do not count.
    """

    positive: int
    negative: int
    questions: int
    by_question: int
    by_area: int
    by_whole: int
    unused: int


@dataclass(frozen=True)
class Examples:
    """Labelled vectors of one contrast and pooling.

    Attributes:
        activations: float32 [n, n_blocks, d_model].
        labels: 1 on the misaligned side, 0 on the aligned one, [n].
        questions: the question of each row: what sides are balanced by.
        groups: what folds and halves keep together and intervals resample: the question, or what it is a wording of.
        areas: the area of each row.
        sizes: how much each row counts before balancing.
        construction: its name: contrast, pooling, site and the two sides.
    """

    activations: np.ndarray
    labels: np.ndarray
    questions: np.ndarray
    groups: np.ndarray
    areas: np.ndarray
    sizes: np.ndarray
    construction: Construction

    @property
    def strata(self) -> np.ndarray:
        """The rows among which the sides are balanced and labels may be exchanged, as numbers [n]; −1 for none."""
        return strata_of(self.labels, self.questions, self.areas, self.sizes)[0]

    def weights(self, keep: np.ndarray | None = None) -> np.ndarray:
        """Return balanced weights of all rows or of some, float64 [n]; see `balanced`."""
        return balanced(self.labels, self.strata, self.sizes if keep is None else self.sizes * keep)

    def on(self, questions: Sequence[str]) -> Examples:
        """Return the examples of some questions."""
        keep = np.isin(self.questions, list(questions))
        return replace(
            self,
            activations=self.activations[keep],
            labels=self.labels[keep],
            questions=self.questions[keep],
            groups=self.groups[keep],
            areas=self.areas[keep],
            sizes=self.sizes[keep],
        )

    def counts(self) -> Balance:
        """Return how many rows and questions count, and how they are balanced."""
        strata, levels = strata_of(self.labels, self.questions, self.areas, self.sizes)
        used = strata >= 0
        return Balance(
            positive=int((used & (self.labels == 1)).sum()),
            negative=int((used & (self.labels == 0)).sum()),
            questions=len(np.unique(self.questions[used])),
            by_question=int((levels == LEVELS.index("question")).sum()),
            by_area=int((levels == LEVELS.index("area")).sum()),
            by_whole=int((levels == LEVELS.index("whole")).sum()),
            unused=int((~used).sum()),
        )


def make_examples(positive: Rows, negative: Rows, construction: Construction) -> Examples:
    """Join the misaligned and the aligned side.

    Raises:
        UserError: an unknown contrast or pooling, or sides of different shape.
    """
    if construction.contrast not in CONTRASTS or construction.pooling not in EXAMPLE_POOLINGS:
        raise UserError(
            f"Contrasts are {', '.join(CONTRASTS)} and poolings {', '.join(EXAMPLE_POOLINGS)}; found "
            f"{construction.contrast!r} and {construction.pooling!r}."
        )
    shapes = positive.activations.shape[1:], negative.activations.shape[1:]
    if shapes[0] != shapes[1]:
        raise UserError(f"The two sides differ in shape: {shapes[0]} and {shapes[1]}.")
    both = {
        name: np.concatenate([getattr(positive, name), getattr(negative, name)])
        for name in ("activations", "questions", "groups", "areas", "sizes")
    }
    labels = np.repeat([1, 0], [len(positive.questions), len(negative.questions)])
    return Examples(labels=labels, construction=replace(construction, n_examples=len(labels)), **both)


def strata_of(
    labels: np.ndarray, questions: np.ndarray, areas: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stratum of each row and the level it was found at (0 question, 1 area, 2 the whole), both −1 for none.

    A question with rows on both sides is a stratum. Where there are too few of these (`ENOUGH_QUESTIONS`), what is left
    is joined by area where an area has both sides, and what is still left as a whole: that keeps examples at the price
    of some difference in what the sides are about. Rows of size 0 are in none.
    """
    strata, levels = np.full(len(labels), -1), np.full(len(labels), -1)
    for level, names in enumerate((questions, areas, np.full(len(labels), ""))):
        rows = np.flatnonzero((strata < 0) & (sizes > 0))
        if not len(rows):
            break
        codes = np.unique(names[rows], return_inverse=True)[1]
        sides = [np.bincount(codes[labels[rows] == side], minlength=codes.max() + 1) for side in (0, 1)]
        mixed = (np.minimum(*sides) > 0)[codes]
        strata[rows[mixed]] = strata.max() + 1 + codes[mixed]
        levels[rows[mixed]] = level
        if len(np.unique(codes[mixed])) >= ENOUGH_QUESTIONS:
            break
    return strata, levels


def balanced(labels: np.ndarray, strata: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return weights with which both sides weigh the same in every stratum, float64 [n]; 0 outside strata.

    Each side of a stratum weighs as much as the lighter one, shared among its rows by size; the mean over the rows that
    count is 1, so a penalty means the same for every contrast.
    """
    used = (strata >= 0) & (sizes > 0)
    weights = np.zeros(len(labels))
    if not used.any():
        return weights
    n_strata = int(strata.max()) + 1
    side = np.where(used, labels * n_strata + strata, 0)
    totals = np.bincount(side[used], weights=sizes[used], minlength=2 * n_strata)
    lighter = np.minimum(totals[:n_strata], totals[n_strata:])
    weights[used] = sizes[used] * lighter[strata[used]] / totals[side[used]]
    return weights * (np.count_nonzero(weights) / weights.sum()) if weights.any() else weights


def permuted(labels: np.ndarray, strata: np.ndarray, chooser: np.random.Generator) -> np.ndarray:
    """Return labels exchanged at random within strata, so that only their link with the activations is lost."""
    order = np.lexsort((chooser.random(len(labels)), strata))
    where = np.argsort(strata, kind="stable")
    found = labels.copy()
    found[where] = labels[order]
    return found
