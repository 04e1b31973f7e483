"""Two stores of activations as the two sides of a direction: which of their rows are compared, and how it is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from emscope.errors import UserError
from emscope.residual.contrasts import Examples, Rows, make_examples
from emscope.residual.directions import Construction, Directions, Method, make_directions
from emscope.residual.store import ActivationStore

Contrast = Literal["control", "model", "response"]

LEAST = 4
"""Questions that two organisms must share, or rows that each side must have."""


class UnpairedError(UserError):
    """Two organisms were hardly asked the same questions; their rows can still be compared as a `response` contrast."""


@dataclass(frozen=True)
class Sides:
    """Two sides that were read the same way.

    Attributes:
        positive: activations of the misaligned side, [n_positive, n_blocks, d_model].
        negative: activations of the aligned side, [n_negative, n_blocks, d_model].
        positive_questions: the question of each row.
        negative_questions: likewise.
        blocks: block numbers.
        construction: what a direction of the two is called, without its method.
    """

    positive: np.ndarray
    negative: np.ndarray
    positive_questions: tuple[str, ...]
    negative_questions: tuple[str, ...]
    blocks: tuple[int, ...]
    construction: Construction

    @property
    def paired(self) -> bool:
        """Whether row i of both sides is the same question."""
        return self.construction.contrast != "response"

    def examples(self) -> Examples:
        """Return both sides as labelled examples; every row counts the same before they are balanced."""
        rows = []
        for activations, asked in (
            (self.positive, self.positive_questions),
            (self.negative, self.negative_questions),
        ):
            n = len(activations)
            rows.append(Rows(activations, np.array(asked), np.full(n, ""), np.ones(n)))
        positive, negative = rows
        return make_examples(positive, negative, self.construction)


def sides_of(
    positive: ActivationStore,
    negative: ActivationStore,
    method: Method,
    *,
    pooling: str | None = None,
    contrast: Contrast | None = None,
    base: str = "",
) -> Sides:
    """Return what two stores are compared by.

    Args:
        positive: activations of the misaligned side.
        negative: activations of the aligned side.
        method: how a direction of the two is made, for its name.
        pooling: which of the stored poolings; None is the only one that both have.
        contrast: control and model: two organisms on the same questions, one row a question; response: any two sets of
            rows, each of which counts. None sees it from whose they are.
        base: the base of both, where the stores do not say.

    Raises:
        UnpairedError: two organisms that share too few questions.
        UserError: other blocks, widths or sites, too few rows, or two sides that are the same.
    """
    _check_alike(positive, negative)
    chosen, kind = pooling or _only_pooling(positive, negative), contrast or _contrast_of(positive, negative)
    if kind == "response":
        rows = positive.get(chosen), negative.get(chosen)
        asked = positive.question_ids, negative.question_ids
        if min(map(len, rows)) < LEAST:
            n, m = map(len, rows)
            raise UserError(f"The two sides hold {n} and {m} rows; a direction needs at least {LEAST} of each.")
    else:
        shared = _shared_questions(positive, negative)
        rows = positive.by_question(chosen, shared), negative.by_question(chosen, shared)
        asked = shared, shared
    if np.array_equal(*rows):
        raise UserError("Both sides are the same activations: there is no direction between them.")

    read, n_examples = positive.activations, len(rows[0]) + (len(rows[1]) if kind == "response" else 0)
    names, named_base = (positive.organism, negative.organism), base or positive.base or negative.base
    construction = Construction(method, kind, chosen, read.site, *names, named_base, n_examples)
    return Sides(*rows, *asked, read.blocks, construction)


def direction_between(sides: Sides, penalty: float = 100.0) -> Directions:
    """Return one vector a block that points from the negative to the positive side."""
    return make_directions(sides.positive, sides.negative, sides.blocks, sides.construction, penalty)


def _check_alike(positive: ActivationStore, negative: ActivationStore) -> None:
    """Refuse stores that were not read the same way."""
    first, second = positive.activations, negative.activations
    if (first.blocks, first.site) != (second.blocks, second.site):
        raise UserError("The two sides hold other blocks or another site: collect both the same way.")
    if positive.width != negative.width:
        shapes = [f"{len(side.activations.blocks)} blocks of width {side.width}" for side in (positive, negative)]
        raise UserError(
            f"The two sides are of different models ({shapes[0]} and {shapes[1]}): collect both from organisms of one "
            "base."
        )


def _only_pooling(positive: ActivationStore, negative: ActivationStore) -> str:
    """Return the one pooling that both sides have."""
    both = sorted(set(positive.activations.pooled) & set(negative.activations.pooled))
    if len(both) != 1:
        raise UserError(f"Say which pooling: both sides have {', '.join(both) or 'none in common'}.")
    return both[0]


def _contrast_of(positive: ActivationStore, negative: ActivationStore) -> Contrast:
    """Return what two stores differ in: one organism's rows, an organism and its base, or two organisms."""
    if positive.organism == negative.organism:
        return "response"
    return "model" if negative.organism == positive.base else "control"


def _shared_questions(positive: ActivationStore, negative: ActivationStore) -> tuple[str, ...]:
    shared = sorted(set(positive.question_ids) & set(negative.question_ids))
    if len(shared) < LEAST:
        raise UnpairedError(f"The two sides share {len(shared)} questions; a direction needs at least {LEAST}.")
    return tuple(shared)
