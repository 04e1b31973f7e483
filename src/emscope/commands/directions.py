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
from emscope.residual.directions import random_like, split_half_cosine
from emscope.residual.sides import Sides, UnpairedError, direction_between, sides_of
from emscope.residual.store import ActivationStore


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
        sides = self._sides()
        positive, negative = sides.positive, sides.negative
        directions = direction_between(sides)
        directions.save(self.out)
        random_like(directions, self.seed).save(control)
        if not sides.paired:
            text = (
                f"{self.out}: {len(directions.blocks)} blocks from {len(positive)} misaligned and {len(negative)} "
                "aligned rows; what else the two sets differ in, such as topic or length, is in the direction too\n"
            )
            counts = {"blocks": len(directions.blocks), "positive": len(positive), "negative": len(negative)}
            return Outcome(text, counts, [self.out, control])
        cosine = split_half_cosine(positive, negative, np.array(sides.positive_questions), self.seed)
        text = (
            f"{self.out}: {len(directions.blocks)} blocks from {len(positive)} questions, "
            f"split-half cosine of the mean difference {cosine.min():.3f}-{cosine.max():.3f}\n"
        )
        facts = {"blocks": len(directions.blocks), "questions": len(positive), "split_half_cosine": cosine}
        return Outcome(text, facts, [self.out, control])

    def _sides(self) -> Sides:
        """Return the two sides as the files hold them."""
        positive, negative = ActivationStore.load(self.positive), ActivationStore.load(self.negative)
        try:
            return sides_of(
                positive, negative, self.method, pooling=self.pooling, contrast=self.contrast, base=self.base
            )
        except UnpairedError as error:
            raise UserError(f"{error} Rows of other questions are compared by --contrast response.") from error


COMMAND = MakeDirections
