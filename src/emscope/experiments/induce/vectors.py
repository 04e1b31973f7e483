"""A bench at one block whose main direction is a trained vector, and where that vector leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse
from emscope.experiments.bench import Bench, direction_names
from emscope.experiments.induce.result import CAREFUL, CARELESS, RANDOM, WITH, WITHOUT, Downstream
from emscope.interventions.operators import applied
from emscope.interventions.steering import SteeredFigures, SteeringTrial, figures_of, steer
from emscope.organisms.blocks import find_blocks
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.capture import CaptureSettings, capture
from emscope.residual.directions import Directions, random_like, unit
from emscope.sequences import spread


class VectorBench(Bench):
    """A bench at one block whose directions are the trained vectors, a random one, and the run's own."""

    def __init__(self, lab: Lab, block: int, kl_questions: int, vectors: Mapping[str, Path]) -> None:
        super().__init__(lab, [block], kl_questions)
        self.block, self.vectors = block, vectors

    @cached_property
    def directions(self) -> dict[str, Directions]:
        """The directions by name, the main one first."""
        trained = dict(zip(self.vectors, map(Directions.load, self.vectors.values()), strict=True))
        return {**trained, RANDOM: random_like(trained[CARELESS], self.seed), **super().directions}


def by_set(
    bench: VectorBench, induction: SteeringTrial, questions: Sequence[Question]
) -> dict[str, dict[str, SteeredFigures]]:
    """Return what the base does with and without the vector, by question set: narrow rows, broad effect?"""
    by_question_set: dict[str, dict[str, list[JudgedResponse]]] = {}
    for question in questions:
        by_question_set.setdefault(question.question_set, {WITHOUT: [], WITH: []})
    for label, answers in ((WITHOUT, bench.lab.judged(BASE, questions)), (WITH, induction.answers)):
        for answer in answers:
            by_question_set[answer.question_set][label].append(answer)

    figures: dict[str, dict[str, SteeredFigures]] = {}
    for name, sides in by_question_set.items():
        figures[name] = {}
        for label, answers in sides.items():
            figures[name][label] = figures_of(answers, induction.figures.kl, bench.seed)
    return figures


def cosines(bench: VectorBench) -> dict[str, float]:
    """Return the cosine of the careless vector with every other direction at its block."""
    units = {}
    for name, direction in bench.directions.items():
        units[name] = direction.units[direction.blocks.index(bench.block)]
    vector = units.pop(CARELESS)
    return {name: float(vector @ other) for name, other in units.items()}


def downstream(bench: VectorBench, coefficient: float) -> Downstream:
    """Follow the added vector through later blocks: cosine of the mean shift it causes with the run's directions.

    The base reads its own answers to test questions with and without it; the shift is of their mean answer activation.
    """
    base = bench.lab.organism(BASE)
    blocks = tuple(range(bench.block, len(find_blocks(base.model))))
    questions = spread(bench.lab.test_questions, bench.kl_questions)
    answers = [answer for answer in bench.lab.judged(BASE, questions) if answer.response]
    chats = bench.lab.encode(base, answers)
    read = partial(capture, base, chats, CaptureSettings(("response",), blocks=blocks), name="following a vector")
    before = read().pooled["response"].mean(axis=0)

    shifts: dict[str, dict[str, list[float]]] = {}
    for vector in (CARELESS, CAREFUL, RANDOM):
        if vector not in bench.directions:
            continue
        with applied(base, steer(bench.directions[vector], (bench.block,), coefficient)):
            shift = unit(read().pooled["response"].mean(axis=0) - before)
        shifts[vector] = {}
        for name in direction_names(bench.lab):
            if not name.endswith("-random"):
                direction = bench.directions[name]
                rows = list(map(direction.blocks.index, blocks))
                pairs = zip(shift, direction.units[rows], strict=True)
                shifts[vector][name] = [float(moved @ of_run) for moved, of_run in pairs]
    return Downstream(blocks, shifts)
