"""A bench at one block whose main direction is a trained vector, and where that vector leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from emscope.behaviour.questions import Question
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
        trained = {name: Directions.load(path) for name, path in self.vectors.items()}
        return {**trained, RANDOM: random_like(trained[CARELESS], self.seed), **super().directions}


def by_set(
    bench: VectorBench, induction: SteeringTrial, questions: Sequence[Question]
) -> dict[str, dict[str, SteeredFigures]]:
    """Return what the base does with and without the vector, by question set: narrow rows, broad effect?"""
    kl, unsteered = induction.figures.kl, bench.lab.judged(BASE, questions)
    figures: dict[str, dict[str, SteeredFigures]] = {}
    for question in questions:
        name = question.question_set
        if name not in figures:
            without = [answer for answer in unsteered if answer.question_set == name]
            steered = [answer for answer in induction.answers if answer.question_set == name]
            figures[name] = {
                WITHOUT: figures_of(without, kl, bench.seed),
                WITH: figures_of(steered, kl, bench.seed),
            }
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
                rows = [direction.blocks.index(block) for block in blocks]
                pairs = zip(shift, direction.units[rows], strict=True)
                shifts[vector][name] = [float(moved @ of_run) for moved, of_run in pairs]
    return Downstream(blocks, shifts)
