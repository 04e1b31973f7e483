"""A steering bench at one block whose main direction is a trained vector, and where that vector leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse
from emscope.experiments.bench import Bench, direction_names, spread
from emscope.interventions.operators import applied
from emscope.interventions.steering import Cell, figures_of, steer
from emscope.organisms.blocks import find_blocks
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.capture import CaptureSettings, capture
from emscope.residual.directions import Directions, random_like, unit

CARELESS, CAREFUL, RANDOM = "trained on careless rows", "trained on careful rows", "random"
STEMS = {CARELESS: "careless", CAREFUL: "careful"}
"""What the files of a trained vector are called."""


class VectorBench(Bench):
    """A bench at one block whose directions are the trained vectors, a random one, and the run's own."""

    def __init__(self, lab: Lab, block: int, kl_questions: int, vectors: Mapping[str, Path]) -> None:
        super().__init__(lab, [block], kl_questions)
        self.block, self.vectors = block, vectors

    @cached_property
    def directions(self) -> dict[str, Directions]:
        """The directions by name, the main one first."""
        trained = {name: Directions.load(path) for name, path in self.vectors.items()}
        return {**trained, RANDOM: random_like(trained[CARELESS], self.seed), **super().directions}


def by_set(bench: VectorBench, induced: Cell, questions: Sequence[Question]) -> dict[str, Any]:
    """Return what the base does with and without the vector, by question set: narrow rows, broad effect?"""
    found: dict[str, Any] = {}
    own = bench.answers(BASE, questions)
    for name in dict.fromkeys(question.question_set for question in questions):
        pairs = (("base", own), ("base + vector", induced.rows))
        found[name] = {
            label: figures_of(
                [row for row in rows if row.question_set == name], induced.figures.kl, bench.seed
            ).as_dict()
            for label, rows in pairs
        }
    return found


def _part(bench: VectorBench, rows: Sequence[JudgedResponse], name: str, induced: Cell) -> dict[str, Any]:
    part = [row for row in rows if row.question_set == name]
    return figures_of(part, induced.figures.kl, bench.seed).as_dict()


def cosines(bench: VectorBench) -> dict[str, float]:
    """Return the cosine of the careless vector with every other direction at its block."""
    own = {name: made.units[made.blocks.index(bench.block)] for name, made in bench.directions.items()}
    return {name: float(own[CARELESS] @ vector) for name, vector in own.items() if name != CARELESS}


def downstream(bench: VectorBench, coefficient: float) -> dict[str, Any]:
    """Follow the added vector through later blocks: cosine of the mean shift it causes with the run's directions.

    The base reads its own answers to test questions with and without it; the shift is of their mean answer activation.
    """
    base, n_blocks = bench.lab.organism(BASE), len(find_blocks(bench.lab.organism(BASE).model))
    blocks = tuple(range(bench.block, n_blocks))
    rows = [row for row in bench.answers(BASE, spread(bench.lab.test_questions, bench.kl_questions)) if row.response]
    chats = bench.lab.encode(base, rows)
    read = partial(capture, base, chats, CaptureSettings(("response",), blocks=blocks), name="following a vector")
    before = read().pooled["response"].mean(axis=0)
    against = {name: bench.directions[name] for name in direction_names(bench.lab) if not name.endswith("-random")}
    found: dict[str, dict[str, list[float]]] = {}
    for name in (CARELESS, CAREFUL, RANDOM):
        if name not in bench.directions:
            continue
        with applied(base, steer(bench.directions[name], (bench.block,), coefficient)):
            shift = unit(read().pooled["response"].mean(axis=0) - before)
        found[name] = {
            label: [float(shift[at] @ made.units[made.blocks.index(block)]) for at, block in enumerate(blocks)]
            for label, made in against.items()
        }
    return {"blocks": list(blocks), "cosines": found}
