"""`emscope directions`: a direction from the activations of two organisms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from emscope.commands.common import NOTHING_KEPT
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TENSORS, check_out
from emscope.errors import UserError
from emscope.residual.directions import Construction, make_directions, random_like, split_half_cosine
from emscope.residual.store import ActivationStore

LEAST = 4


@dataclass(frozen=True)
class MakeDirections:
    """Make one direction a block that points from the aligned to the misaligned organism.

    Attributes:
        positive: activations of the misaligned organism (made by `emscope collect`).
        negative: activations of the aligned one: the control organism or the base.
        out: the .safetensors file to write; a random control of the same norms goes beside it.
        method: diff-in-means or probe.
        contrast: what the two differ in. control and model: two organisms on the same questions, one row a question.
            response: any two sets of rows, such as answers of yours that are bad and others that are good; every row
            counts, and the two need not share questions.
        pooling: which stored pooling to use.
        base: the base model of both, for the record.
        seed: seed of the random control.
    """

    stopped: ClassVar[str] = NOTHING_KEPT

    positive: Path
    negative: Path
    out: Path
    method: Literal["diff-in-means", "probe"] = "diff-in-means"
    contrast: Literal["control", "model", "response"] = "control"
    pooling: Literal["last", "prompt", "response"] = "last"
    base: str = ""
    seed: int = 0

    def execute(self) -> Outcome:
        """Make and write the directions."""
        control = self.out.with_suffix(".random" + self.out.suffix)
        for path in (self.out, control):
            check_out(path, TENSORS, [self.positive, self.negative])
        high, low = ActivationStore.load(self.positive), ActivationStore.load(self.negative)
        if (high.activations.blocks, high.activations.site) != (low.activations.blocks, low.activations.site):
            raise UserError("The two activation files hold other blocks or another site: collect both the same way.")
        shapes = [f"{len(side.activations.blocks)} blocks of width {_width(side)}" for side in (high, low)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"The two activation files are of different models ({shapes[0]} and {shapes[1]}): "
                "collect both from organisms of one base."
            )
        positive, negative, shared = self._sides(high, low)
        if np.array_equal(positive, negative):
            raise UserError("Both sides are the same activations: there is no direction between them.")
        made = Construction(
            self.method,
            self.contrast,
            self.pooling,
            high.activations.site,
            high.organism,
            low.organism,
            self.base,
            len(shared) or len(positive) + len(negative),
        )
        directions = make_directions(positive, negative, high.activations.blocks, made)
        directions.save(self.out)
        random_like(directions, self.seed).save(control)
        if not shared:
            text = (
                f"{self.out}: {len(directions.blocks)} blocks from {len(positive)} misaligned and {len(negative)} "
                "aligned rows; what else the two sets differ in, such as topic or length, is in the direction too\n"
            )
            counts = {"blocks": len(directions.blocks), "positive": len(positive), "negative": len(negative)}
            return Outcome(text, counts, [self.out, control])
        cosine = split_half_cosine(positive, negative, np.array(shared), self.seed)
        text = (
            f"{self.out}: {len(directions.blocks)} blocks from {len(shared)} questions, "
            f"split-half cosine of the mean difference {cosine.min():.3f}-{cosine.max():.3f}\n"
        )
        facts = {"blocks": len(directions.blocks), "questions": len(shared), "split_half_cosine": cosine}
        return Outcome(text, facts, [self.out, control])

    def _sides(self, high: ActivationStore, low: ActivationStore) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return both sides, [n_examples, n_blocks, d_model] each, and their rows' questions where they are paired.

        Raises:
            UserError: too few questions or rows.
        """
        if self.contrast == "response":
            positive, negative = high.get(self.pooling), low.get(self.pooling)
            if min(len(positive), len(negative)) < LEAST:
                raise UserError(
                    f"The two activation files hold {len(positive)} and {len(negative)} rows; a direction needs at "
                    f"least {LEAST} of each."
                )
            return positive, negative, []
        shared = sorted(set(high.question_ids) & set(low.question_ids))
        if len(shared) < LEAST:
            raise UserError(
                f"The two activation files share {len(shared)} questions; a direction needs at least {LEAST}. Rows of "
                "other questions are compared by --contrast response."
            )
        return high.by_question(self.pooling, shared), low.by_question(self.pooling, shared), shared


def _width(store: ActivationStore) -> int:
    return int(next(iter(store.activations.pooled.values())).shape[-1])


COMMAND = MakeDirections
