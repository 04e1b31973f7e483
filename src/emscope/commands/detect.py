"""`emscope detect`: where does a model stand along a direction?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from emscope.commands.common import kept_parts, kept_with, read_questions
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import check_out
from emscope.errors import UserError
from emscope.files import write_json
from emscope.organisms.loading import LoadSettings
from emscope.report.wording import bounded
from emscope.residual.detecting import Detection, block_to_score_at, detect
from emscope.residual.directions import Directions


@dataclass(frozen=True)
class Detect:
    """Score a model's prompts along a direction; above 0 is nearer to the misaligned organism than to the aligned one.

    It says what the direction was tried on, and how many harmless fine-tunes scored as high.

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
    load: LoadSettings = field(default_factory=LoadSettings)

    @property
    def stopped(self) -> str:
        """What is left after an interruption."""
        return kept_with(self.out)

    def execute(self) -> Outcome:
        """Score and print."""
        if self.out is not None:
            check_out(self.out, [".json"], [self.directions, *self.questions])
        directions = Directions.load(self.directions)
        try:
            block = block_to_score_at(directions, self.block)
        except UserError as error:
            raise UserError(f"{self.directions}: {error}") from error
        questions = read_questions(self.questions)
        organism = self.load.load(self.organism)
        with kept_parts(self.out, [self.organism, self.load.base]):
            found = detect(organism, directions, questions, block, name=self.organism)
            scored = found.as_dict()
            if self.out is not None:
                write_json(self.out, scored)
        return Outcome(_told(found), scored, [] if self.out is None else [self.out])


def _told(found: Detection) -> str:
    """Return the result as lines of text."""
    made = found.construction
    return (
        f"{found.organism}: {found.verdict}\n"
        f"  {made.contrast} direction by {made.method} on {made.pooling} tokens, block {found.block}, "
        f"{len(found.questions)} questions\n"
        f"  mean score {bounded(found.mean, '.2f')}, above 0 on {100 * found.share_above_0:.0f} % of the questions\n"
        f"  {found.tried_on}\n"
    )


COMMAND = Detect
