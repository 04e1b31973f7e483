"""What an ablation is asked for: the settings that the command line and Inspect share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emscope.interventions.operators import AlongDirections


@dataclass(frozen=True)
class AblationSettings:
    """How directions are taken out of a model, or put in.

    Attributes:
        mode: centred (back to where the aligned model is), project-out (the homework's), subtract, add (steers; a
            negative strength corrects) or cap (moves only what lies outside the aligned range).
        at: blocks where it acts; none given means the last two thirds.
        strength: 1 removes the whole.
        source_block: use this block's direction everywhere.
        width: half the range that cap leaves alone, in deviations of the direction's pooled activations.
    """

    mode: str = "centred"
    at: tuple[int, ...] = ()
    strength: float = 1.0
    source_block: int | None = None
    width: float = 2.0

    def along(self, file: Path) -> AlongDirections:
        """Return the intervention along the directions of a file.

        Raises:
            UserError: no such file, or settings that do not fit its directions.
        """
        from emscope.interventions.operators import along
        from emscope.residual.directions import Directions

        directions = Directions.load(file)
        blocks = self.at or directions.blocks[len(directions.blocks) // 3 :]
        return along(directions, self.mode, tuple(blocks), self.strength, self.source_block, self.width)
