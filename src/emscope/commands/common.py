"""Flags that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emscope.behaviour.questions import Question, load_question_sets
from emscope.errors import UserError
from emscope.files import without_nan, write_json

if TYPE_CHECKING:
    from emscope.interventions.operators import Intervention, Mode
    from emscope.organisms.models import Organism


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and where it runs.

    Attributes:
        base: base of an adapter that does not name its own.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto, bfloat16, float32 or float16.
        trust_remote_code: run code that comes with a hub model. Only for authors you trust.
    """

    base: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False

    def load(self, name: str) -> Organism:
        """Load a model by name with these flags."""
        from emscope.organisms.device import choose_placement
        from emscope.organisms.models import load

        place = choose_placement(self.device, self.dtype)
        return load(name, base=self.base, placement=place, trust_remote_code=self.trust_remote_code)


@dataclass(frozen=True)
class AblationFlags:
    """An ablation, active while answers are sampled.

    Attributes:
        directions: a file made by `emscope directions`; none means no ablation.
        mode: centred (back to where the aligned model is), project-out (the homework's), subtract, add (steers; a
            negative strength corrects) or cap (moves only what lies outside the aligned range).
        at: blocks where it acts; none given means the last two thirds.
        strength: 1 removes the whole.
        source_block: use this block's direction everywhere.
        width: half the range that cap leaves alone, in deviations of the direction's pooled activations.
    """

    directions: Path | None = None
    mode: str = "centred"
    at: tuple[int, ...] = ()
    strength: float = 1.0
    source_block: int | None = None
    width: float = 2.0

    def intervention(self) -> Intervention | None:
        """Return the intervention, or None without directions."""
        from emscope.interventions.operators import Intervention
        from emscope.residual.directions import Directions

        if self.directions is None:
            return None
        directions = Directions.load(self.directions)
        blocks = self.at or directions.blocks[len(directions.blocks) // 3 :]
        mode: Mode = self.mode  # type: ignore[assignment]  # Intervention refuses others
        return Intervention(directions, mode, tuple(blocks), self.strength, self.source_block, self.width)


def read_questions(names: Sequence[str]) -> list[Question]:
    """Load question sets by name or file."""
    questions = load_question_sets(names)
    if not questions:
        raise UserError("No questions: name a question set or a file with --questions.")
    return questions


def emit(value: Any, path: Path | None) -> None:
    """Print a result as JSON, or write it to a file."""
    if path is None:
        sys.stdout.write(json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n")
    else:
        write_json(path, value)
