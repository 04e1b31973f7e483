"""What narrow examples in the prompt do to the base: rates by their number and kind, and where activations go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emscope.experiments.main.result import AnswerFigures
from emscope.experiments.result import Result
from emscope.statistics import Estimate

CARELESS, CAREFUL, MIXED = "careless", "careful", "mixed"
"""Kinds of examples; mixed are careless and careful ones by turns."""
DIRECTION, RANDOM = "the run's direction", "a random direction"
"""What is taken out again, at the largest number of careless examples."""


@dataclass(frozen=True)
class ShotCell:
    """The base after n examples of one kind.

    Attributes:
        kind: careless, careful or mixed.
        n_shots: examples in the prompt.
        tokens: tokens of the longest prompt.
        answers: how the answers behave.
        score: mean score of the last prompt token along the run's direction, in within-class deviations; above 0 is
            nearer to the misaligned organism.
        shift_cosine: cosine of the shift that the examples make at the last prompt token with the one that the
            fine-tune makes, at the block of the score; NaN without examples.
        shift_cosine_by_block: the same at every block.
    """

    kind: str
    n_shots: int
    tokens: int
    answers: AnswerFigures
    score: Estimate
    shift_cosine: float
    shift_cosine_by_block: tuple[float, ...]


@dataclass(frozen=True)
class Undone:
    """The base with the most careless examples, and a direction taken out.

    Attributes:
        what: the direction.
        answers: how the answers behave.
    """

    what: str
    answers: AnswerFigures


@dataclass(frozen=True)
class InContextResult(Result):
    """What experiments/incontext.json holds.

    Attributes:
        data: by kind of examples, the data they come from; mixed come from both.
        questions: test questions that were asked.
        draws: draws of the examples, each asked every question.
        block: the block of scores and of the cosine.
        direction: the run's direction that scores.
        positions: tokens that the base can read at once.
        skipped: numbers of examples that do not fit it, or that the data do not have.
        cells: by kind and number of examples; none of them stands for every kind.
        organisms: how the run's own organisms answer the same questions, without examples.
        organism_scores: their mean scores along the direction.
        undone: with the most careless examples and a direction taken out; empty without careless examples.
    """

    data: Mapping[str, str]
    questions: int
    draws: int
    block: int
    direction: str
    positions: int | None
    skipped: tuple[int, ...]
    cells: tuple[ShotCell, ...]
    organisms: Mapping[str, AnswerFigures]
    organism_scores: Mapping[str, Estimate]
    undone: tuple[Undone, ...]

    def of(self, kind: str) -> list[ShotCell]:
        """Return the cells of one kind by number of examples, the one without any first."""
        return [cell for cell in self.cells if cell.kind == kind or cell.n_shots == 0]

    @property
    def without(self) -> ShotCell:
        """The base without examples."""
        return self.cells[0]

    @property
    def most_careless(self) -> ShotCell:
        """The base with the most careless examples."""
        return self.of(CARELESS)[-1]
