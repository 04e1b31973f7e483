"""`emscope detect`: where does a model stand along a direction?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emscope.behaviour.questions import Question
from emscope.commands.common import ModelFlags, kept_parts, kept_with, read_questions
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import check_out
from emscope.errors import UserError
from emscope.files import write_json
from emscope.organisms.blocks import find_blocks
from emscope.organisms.models import Organism
from emscope.report.wording import bounded
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture, organism_width
from emscope.residual.directions import Directions
from emscope.statistics import estimate_mean


@dataclass(frozen=True)
class Detect:
    """Score a model's prompts along a direction; above 0 is nearer to the misaligned organism than to the aligned one.

    Attributes:
        organism: the model to test: a model, or an adapter folder.
        directions: a file made by `emscope directions`, from last prompt tokens or prompt means.
        questions: question sets or files; use ones that the direction was not made from.
        block: the block to score at; by default the one that separates best on the direction's own training questions.
        out: write the result here as JSON.
        load: base, device and dtype.
    """

    organism: str
    directions: Path
    questions: tuple[str, ...] = ("open-ended",)
    block: int | None = None
    out: Path | None = None
    load: ModelFlags = field(default_factory=ModelFlags)

    @property
    def stopped(self) -> str:
        """What is left after an interruption."""
        return kept_with(self.out)

    def execute(self) -> Outcome:
        """Score and print."""
        if self.out is not None:
            check_out(self.out, [".json"], [self.directions, *self.questions])
        directions = Directions.load(self.directions)
        pooling: Any = directions.construction.pooling
        if pooling not in ("last", "prompt"):
            raise UserError(
                f"{self.directions} is made from {pooling} tokens; detection scores prompts: use last or prompt."
            )
        block = directions.best_block if self.block is None else self.block
        if block not in directions.blocks:
            raise UserError(f"The directions have no block {block}; they have {list(directions.blocks)}.")
        questions = read_questions(self.questions)
        organism = self.load.load(self.organism)
        directions.check_width(organism_width(organism), len(find_blocks(organism.model)))
        with kept_parts(self.out, [self.organism, self.load.base]):
            scored = self._scored(organism, directions, questions, block)
            if self.out is not None:
                write_json(self.out, scored)
        return Outcome(_told(scored, len(questions)), scored, [] if self.out is None else [self.out])

    def _scored(
        self, organism: Organism, directions: Directions, questions: list[Question], block: int
    ) -> dict[str, Any]:
        """Return where the organism's prompts stand, at one block and at all."""
        pooling: Any = directions.construction.pooling
        systems = [question.system for question in questions]
        chats = encode_for_capture(organism.tokenizer, [question.text for question in questions], system=systems)
        site: Any = directions.construction.site
        found = capture(organism, chats, CaptureSettings((pooling,), site, directions.blocks))
        scores, raw = directions.score(found.pooled[pooling]), directions.project(found.pooled[pooling])
        index = directions.blocks.index(block)
        mean = estimate_mean(scores[:, index].tolist(), [question.group for question in questions])
        return {
            "organism": self.organism,
            "construction": asdict(directions.construction),
            "block": block,
            "mean_score": mean.as_dict(),
            "share_above_0": float((scores[:, index] > 0).mean()),
            "verdict": "nearer to the misaligned organism" if mean.value > 0 else "nearer to the aligned organism",
            "scores": {question.id: float(value) for question, value in zip(questions, scores[:, index], strict=True)},
            "mean_score_by_block": _by_block(directions, scores),
            "mean_raw_projection_by_block": _by_block(directions, raw),
        }


def _told(scored: dict[str, Any], n_questions: int) -> str:
    """Return the result as lines of text."""
    mean, made = scored["mean_score"], scored["construction"]
    return (
        f"{scored['organism']}: {scored['verdict']}\n"
        f"  {made['contrast']} direction by {made['method']} on {made['pooling']} tokens, block {scored['block']}, "
        f"{n_questions} questions\n"
        f"  mean score {bounded(mean, '.2f')}, above 0 on {100 * scored['share_above_0']:.0f} % of the questions\n"
    )


def _by_block(directions: Directions, values: np.ndarray) -> dict[int, float]:
    return {block: float(value) for block, value in zip(directions.blocks, values.mean(axis=0), strict=True)}


COMMAND = Detect
