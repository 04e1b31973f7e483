"""What the steps of the steering experiment share: organisms with text of their own, directions, and flat figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.interventions.ablation import restored_share
from emscope.interventions.calibration import coefficients_for
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import Intervention
from emscope.interventions.steering import Cell, Figures, Subject, Turn, answer_tokens, figures_of, measure, steer
from emscope.pipeline.lab import BASE, CONTROL, CORRECTING, MISALIGNED, Lab
from emscope.residual.directions import Directions
from emscope.statistics import Estimate


def direction_names(lab: Lab) -> list[str]:
    """Return the directions that are compared, the main one first: each contrast's, and its random control."""
    contrasts = ("control", "model") if CONTROL in lab.names else ("model",)
    return [f"{contrast}-{CORRECTING}{ending}" for contrast in contrasts for ending in ("", "-random")]


def spread(questions: Sequence[Question], n: int) -> list[Question]:
    """Return `n` of the questions, evenly spread, or all of them for 0 or when there are fewer."""
    n = min(n or len(questions), len(questions))
    return [questions[index * len(questions) // n] for index in range(n)]


@dataclass(frozen=True)
class Aimed:
    """A turn found for a disturbance, and whether it has it, on development questions.

    Attributes:
        turn: the turn.
        nats: the disturbance that was wanted, in nats a token.
        reached: whether the turn disturbs by that, to 5 %; otherwise it comes nearest of those that were tried.
    """

    turn: Turn
    nats: float
    reached: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the aim as plain values, beside the figures of the turn."""
        return {"kl_target": self.nats, "kl_reached": self.reached}


class Bench:
    """Organisms of a run, their answers without steering, and the directions that steer them."""

    def __init__(self, lab: Lab, blocks: Sequence[int], kl_questions: int) -> None:
        self.lab, self.blocks, self.seed = lab, list(blocks), lab.config.seed
        self.kl_questions = kl_questions
        self.kept: list[JudgedResponse] = []

    @cached_property
    def directions(self) -> dict[str, Directions]:
        """The directions by name, the main one first."""
        files = {name: self.lab.folder.path("directions", f"{name}.safetensors") for name in direction_names(self.lab)}
        return {name: Directions.load(file) for name, file in files.items()}

    @property
    def main(self) -> str:
        """The direction of the dial."""
        return next(iter(self.directions))

    @cached_property
    def dev(self) -> dict[str, Subject]:
        """Organisms with their answers to development questions, on which coefficients are chosen."""
        return self._subjects(spread(self.lab.dev_questions, self.kl_questions))

    @cached_property
    def test(self) -> dict[str, Subject]:
        """Organisms with their answers to test questions, on which the disturbance is reported."""
        return self._subjects(spread(self.lab.test_questions, self.kl_questions))

    def _subjects(self, questions: Sequence[Question]) -> dict[str, Subject]:
        found = {}
        for name in self.lab.names:
            organism = self.lab.organism(name)
            rows = [row for row in self.answers(name, questions) if row.response]
            chats = self.lab.encode(organism, rows)
            found[name] = Subject(name, Undisturbed(organism, ForcedText(chats, [row.group for row in rows])))
        return found

    @cached_property
    def _judged(self) -> dict[str, list[JudgedResponse]]:
        files = {name: self.lab.folder.path("judgements", f"{name}.parquet") for name in self.lab.names}
        return {name: read_table(file, JudgedResponse) for name, file in files.items()}

    def answers(self, name: str, questions: Sequence[Question]) -> list[JudgedResponse]:
        """Return an organism's judged answers without steering."""
        wanted = {question.id for question in questions}
        return [row for row in self._judged[name] if row.question_id in wanted]

    @cached_property
    def norms(self) -> dict[str, dict[int, float]]:
        """Mean norm of the residual stream over answer tokens, by organism and block."""
        return {
            name: answer_tokens(subject, self.directions[self.main], self.blocks).norm
            for name, subject in self.dev.items()
        }

    def length(self, direction: str, blocks: Sequence[int]) -> float:
        """Return the length of a direction's vector, the mean over the blocks."""
        directions = self.directions[direction]
        rows = [directions.blocks.index(block) for block in blocks]
        return float(np.linalg.norm(directions.vectors[rows], axis=1).mean())

    def fine_tune(self, subjects: dict[str, Subject], name: str) -> Estimate:
        """Return the fine-tune's own disturbance on an organism's answers, in nats a token.

        It is how far the base is from a fine-tuned organism, and the misaligned organism from the base.
        """
        other = self.lab.organism(MISALIGNED if name == BASE else BASE)
        return subjects[name].undisturbed.divergence(other=other).estimate(self.seed)

    def at_disturbance(
        self, name: str, directions: Sequence[str], near: Turn, nats: Sequence[float]
    ) -> list[list[Aimed]]:
        """Return, for each direction, the turns at the blocks of `near` that disturb an organism by the given nats.

        Nats are means over tokens. Coefficients are found on answers to development questions.
        """
        wanted = [(direction, target) for direction in directions for target in nats]
        size = near.coefficient * self.length(near.direction, near.blocks)

        def nats_at(searches: Sequence[int], sizes: Sequence[float]) -> list[float]:
            turns = [Turn(wanted[number][0], near.blocks, size) for number, size in zip(searches, sizes, strict=True)]
            found = self.dev[name].undisturbed.divergences([self.intervention(turn) for turn in turns])
            return [disturbance.per_token for disturbance in found]

        starts = [size / self.length(direction, near.blocks) for direction, _ in wanted]
        found = coefficients_for([target for _, target in wanted], starts, nats_at)
        aimed = [
            Aimed(Turn(direction, near.blocks, item.coefficient), target, item.reached)
            for (direction, target), item in zip(wanted, found, strict=True)
        ]
        return [aimed[start : start + len(nats)] for start in range(0, len(aimed), len(nats))]

    def intervention(self, turn: Turn) -> Intervention:
        """Return what a turn does."""
        return steer(self.directions[turn.direction], turn.blocks, turn.coefficient)

    def turned(self, subject: Subject, turns: Sequence[Turn], questions: Sequence[Question]) -> list[Cell]:
        """Turn the dial of one organism and measure it everywhere."""
        cells = [self.intervention(turn) for turn in turns]
        found = self.measured(subject, cells, questions)
        return [Cell(turn, *measured) for turn, measured in zip(turns, found, strict=True)]

    def measured(
        self, subject: Subject, cells: Sequence[Intervention], questions: Sequence[Question]
    ) -> list[tuple[Figures, list[JudgedResponse]]]:
        """Return figures and answers under each intervention; the answers are kept for the run's table."""
        found = measure(subject, cells, questions, self.lab.config.sampling, self.lab.judge)
        for cell, (_, rows) in zip(cells, found, strict=True):
            label = f"{subject.name} + {cell.directions.construction.contrast} {cell.directions.construction.method}"
            self.kept += [replace(row, organism=f"{label}, {cell.describe()}") for row in rows]
        return found

    def plain(self, name: str, cell: Cell, **more: Any) -> dict[str, Any]:
        """Return a measured turn as flat JSON values, with the length added as a share of the residual norm."""
        turn = cell.turn
        shares = [self.length(turn.direction, (block,)) / self.norms[name][block] for block in turn.blocks]
        relative = turn.coefficient * float(np.mean(shares))
        return {"organism": name, **asdict(turn), "relative": relative, **cell.figures.as_dict(), **more}

    def restored(self, rows: Sequence[JudgedResponse], questions: Sequence[Question]) -> dict[str, Any]:
        """Return the share of alignment that answers of the misaligned organism have got back."""
        own, base = (self.answers(name, questions) for name in (MISALIGNED, BASE))
        return restored_share(rows, own, base, self.seed).as_dict()

    def unsteered(self, name: str, questions: Sequence[Question]) -> Figures:
        """Return an organism's figures without steering."""
        return figures_of(self.answers(name, questions), Estimate(0.0, 0.0, 0.0, 0), self.seed)
