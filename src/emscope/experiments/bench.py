"""What the experiments that steer share: a run's organisms and directions, and the figures of one way to steer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values
from emscope.experiments.openings import OpenRun, held_by, judging_anywhere
from emscope.interventions.ablation import restored_share
from emscope.interventions.calibration import coefficients_for
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import AlongDirections
from emscope.interventions.steering import (
    SteeredFigures,
    SteeredOrganism,
    Steering,
    SteeringTrial,
    answer_tokens,
    figures_of,
    measure,
    steer,
)
from emscope.parts import Part
from emscope.pipeline.lab import BASE, CONTROL, CORRECTING, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.plain import fitted, plain
from emscope.residual.directions import Directions
from emscope.sequences import spread
from emscope.statistics import Estimate


def direction_names(lab: Lab) -> list[str]:
    """Return the directions that are compared, the main one first: each contrast's, and its random control."""
    names = []
    for contrast in ("control", "model") if CONTROL in lab.names else ("model",):
        names += [f"{contrast}-{CORRECTING}", f"{contrast}-{CORRECTING}-random"]
    return names


def files_read(lab: Lab) -> list[Path]:
    """Return the files of a run that steering reads: judged answers, adapters and directions."""
    files = [lab.judgements_file(name) for name in lab.names]
    for name in lab.names:
        files += adapter_files(lab, name)
    for name in direction_names(lab):
        files.append(lab.direction_file(name))
    return files


@dataclass(frozen=True)
class SteeredRow:
    """One way to steer an organism, and what the organism then does.

    Attributes:
        organism: the organism.
        direction: the direction, by its name in the run.
        blocks: the block where it was added, or the blocks that shared it.
        coefficient: how many times the unnormalised vector was added.
        relative: length of what was added, as a share of the residual stream's mean norm there.
        kl: disturbance, nats a token.
        aligned: mean alignment, 0 to 100.
        coherent: share of coherent answers.
        em: EM rate.
    """

    organism: str
    direction: str
    blocks: tuple[int, ...]
    coefficient: float
    relative: float
    kl: Estimate
    aligned: Estimate
    coherent: Estimate
    em: Estimate


RowT = TypeVar("RowT", bound=SteeredRow)


@dataclass(frozen=True)
class Aimed:
    """A way to steer that was searched for a disturbance, and whether it has it, on development questions.

    Attributes:
        steering: what to do.
        nats: the disturbance that was wanted, in nats a token.
        reached: whether it disturbs by that, to 5 %; otherwise it comes nearest of those that were tried.
    """

    steering: Steering
    nats: float
    reached: bool


DEV, TEST = "development", "test"
"""Questions on whose answers the disturbance is measured."""


class Undisturbeds(Mapping[str, SteeredOrganism]):
    """Organisms of a run with their answers to some questions, each read when it is first asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[str], SteeredOrganism]) -> None:
        self._names, self._read = tuple(names), read
        self._found: dict[str, SteeredOrganism] = {}

    def __getitem__(self, name: str) -> SteeredOrganism:
        """Return an organism by its name."""
        if name not in self._names:
            raise KeyError(name)
        if name not in self._found:
            self._found[name] = self._read(name)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Count the organisms."""
        return len(self._names)


@dataclass(frozen=True)
class BenchNeed:
    """The organisms of a run as each process that steers them needs them once."""

    run: OpenRun
    kl_questions: int

    def make(self) -> Bench:
        """Open the run."""
        return Bench(self.run.make(), [], self.kl_questions)

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say that models of other work have to go."""
        return True


@dataclass(frozen=True)
class Cells:
    """One organism under several interventions, sampled side by side.

    Attributes:
        bench: the run.
        name: the organism.
        part: whose answers measure the disturbance, `development` or `test`.
        modes: what kinds of interventions are tried.
        interventions: what is done to it.
        questions: what it is asked.
    """

    bench: BenchNeed
    name: str
    part: str
    modes: tuple[str, ...]
    interventions: tuple[AlongDirections, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Cell:
    """An organism under one intervention: what it does, and its judged answers."""

    figures: SteeredFigures
    answers: list[JudgedResponse]


def cells_measured(cells: Cells, held: Held) -> Part:
    """Return, as plain values, where they were computed and the figures and answers of cells."""
    bench = held.get(cells.bench)
    organism = (bench.dev if cells.part == DEV else bench.test)[cells.name]
    found = []
    for figures, answers in measure(
        organism, cells.interventions, cells.questions, bench.lab.config.sampling, bench.lab.judge
    ):
        found.append([plain(figures), [asdict(answer) for answer in answers]])
    return Part([bench.lab.placement.told, found], rows=sum(len(answers) for _, answers in found))


class Bench:
    """Organisms of a run, their answers without steering, and the directions that steer them.

    Attributes:
        lab: the run.
        blocks: blocks that are steered.
        seed: seed of intervals and of random directions.
        kl_questions: questions whose answers measure a disturbance.
        kept: all answers under steering, for the run's table.
    """

    def __init__(self, lab: Lab, blocks: Sequence[int], kl_questions: int) -> None:
        self.lab, self.blocks, self.seed = lab, list(blocks), lab.config.seed
        self.kl_questions = kl_questions
        self.kept: list[JudgedResponse] = []

    @cached_property
    def directions(self) -> dict[str, Directions]:
        """The directions by name, the main one first."""
        return {name: self.lab.direction(name) for name in direction_names(self.lab)}

    @property
    def main(self) -> str:
        """The direction of the dial."""
        return next(iter(self.directions))

    @cached_property
    def dev(self) -> Mapping[str, SteeredOrganism]:
        """Organisms with their answers to development questions, on which coefficients are chosen."""
        return Undisturbeds(self.lab.names, partial(self._organism, self.lab.dev_questions))

    @cached_property
    def test(self) -> Mapping[str, SteeredOrganism]:
        """Organisms with their answers to test questions, on which the disturbance is reported."""
        return Undisturbeds(self.lab.names, partial(self._organism, self.lab.test_questions))

    def _organism(self, questions: Sequence[Question], name: str) -> SteeredOrganism:
        organism, asked = self.lab.organism(name), spread(questions, self.kl_questions)
        answers = [answer for answer in self.lab.judged(name, asked) if answer.response]
        text = ForcedText(self.lab.encode(organism, answers), [answer.group for answer in answers])
        return SteeredOrganism(name, Undisturbed(organism, text))

    @cached_property
    def need(self) -> BenchNeed:
        """What tasks need of this bench."""
        return BenchNeed(OpenRun.of(self.lab), self.kl_questions)

    @cached_property
    def held(self) -> Held:
        """What tasks find of it in this process: itself."""
        held = held_by(self.lab)
        held.put(self.need, self)
        return held

    @cached_property
    def norms(self) -> dict[str, dict[int, float]]:
        """Mean norm of the residual stream over answer tokens, by organism and block."""
        direction = self.directions[self.main]
        norms = {}
        for name, organism in self.dev.items():
            norms[name] = answer_tokens(organism, direction, self.blocks).norm
        return norms

    def length(self, direction: str, blocks: Sequence[int]) -> float:
        """Return the length of a direction's vector, the mean over the blocks."""
        return float(self.lengths(direction, blocks).mean())

    def lengths(self, direction: str, blocks: Sequence[int]) -> np.ndarray:
        """Return the lengths of a direction's vectors at some blocks, [n_blocks]."""
        directions = self.directions[direction]
        rows = list(map(directions.blocks.index, blocks))
        return np.asarray(np.linalg.norm(directions.vectors[rows], axis=1))

    def fine_tune(self, organisms: Mapping[str, SteeredOrganism], name: str) -> Estimate:
        """Return the fine-tune's own disturbance on an organism's answers, in nats a token.

        It is how far the base is from a fine-tuned organism, and the misaligned organism from the base.
        """
        other = self.lab.organism(MISALIGNED if name == BASE else BASE)
        return organisms[name].undisturbed.divergence(other=other).estimate(self.seed)

    def at_disturbance(
        self, name: str, directions: Sequence[str], near: Steering, nats: Sequence[float]
    ) -> list[Aimed]:
        """Return how to steer by each direction so that an organism is disturbed by each of the given nats.

        Nats are means over tokens; coefficients have the sign and the blocks of `near`, and are found on answers to
        development questions. For each direction in turn there is one for each of the nats.
        """
        wanted = list(product(directions, nats))
        length = near.coefficient * self.length(near.direction, near.blocks)
        undisturbed = self.dev[name].undisturbed

        def nats_at(searches: Sequence[int], coefficients: Sequence[float]) -> list[float]:
            tried = []
            for number, coefficient in zip(searches, coefficients, strict=True):
                tried.append(self.intervention(Steering(wanted[number][0], near.blocks, coefficient)))
            return [disturbance.per_token for disturbance in undisturbed.divergences(tried)]

        targets = list(nats) * len(directions)
        starts = [length / self.length(direction, near.blocks) for direction, _ in wanted]
        aimed = []
        for (direction, target), search in zip(wanted, coefficients_for(targets, starts, nats_at), strict=True):
            aimed.append(Aimed(Steering(direction, near.blocks, search.coefficient), target, search.reached))
        return aimed

    def intervention(self, steering: Steering) -> AlongDirections:
        """Return what one way to steer does to the residual stream."""
        return steer(self.directions[steering.direction], steering.blocks, steering.coefficient)

    def cells(
        self, name: str, part: str, interventions: Sequence[AlongDirections], questions: Sequence[Question]
    ) -> Cells:
        """Return an organism under some interventions, to be measured."""
        modes = tuple(intervention.mode for intervention in interventions)
        return Cells(self.need, name, part, modes, tuple(interventions), tuple(questions))

    def steered(self, name: str, part: str, steerings: Sequence[Steering], questions: Sequence[Question]) -> Cells:
        """Return an organism steered in some ways, to be measured."""
        return self.cells(name, part, list(map(self.intervention, steerings)), questions)

    def measured(self, what: str, asked: Sequence[Cells]) -> list[list[Cell]]:
        """Return figures and answers of all cells, in order; each of `asked` is a shard that one process measures.

        The answers are kept for the run's table. Under a judge that keeps its scores in the run, all is done here.
        """
        samples = self.lab.config.sampling.samples
        shards = []
        for cells in asked:
            shards.append(Shard(cells, len(cells.interventions) * len(cells.questions) * samples))
        task = Task(what, cells_measured, shards, "answers")
        with judging_anywhere(self.lab):
            values = list(joined_values(carried_out(task, self.held)))

        measured = []
        for cells, value in zip(asked, values, strict=True):
            found = [_cell(figures, answers) for figures, answers in value]
            for intervention, cell in zip(cells.interventions, found, strict=True):
                label = label_of(cells.name, intervention)
                self.kept += [replace(answer, organism=label) for answer in cell.answers]
            measured.append(found)
        return measured

    def tried(
        self, name: str, part: str, steerings: Sequence[Steering], questions: Sequence[Question]
    ) -> list[SteeringTrial]:
        """Steer one organism in each of the ways, and measure what it does."""
        (cells,) = self.measured(f"steering {name}", [self.steered(name, part, steerings, questions)])
        return trials_of(steerings, cells)

    def row(self, kind: type[RowT], name: str, trial: SteeringTrial, **more: Any) -> RowT:
        """Return a trial on an organism as a row of results; `more` are the fields that its kind has besides."""
        steering, figures = trial.steering, trial.figures
        norms = [self.norms[name][block] for block in steering.blocks]
        shares = self.lengths(steering.direction, steering.blocks).astype(float) / norms
        return kind(
            organism=name,
            direction=steering.direction,
            blocks=steering.blocks,
            coefficient=steering.coefficient,
            relative=steering.coefficient * float(np.mean(shares)),
            kl=figures.kl,
            aligned=figures.aligned,
            coherent=figures.coherent,
            em=figures.em,
            **more,
        )

    def restored(self, answers: Sequence[JudgedResponse], questions: Sequence[Question]) -> Estimate:
        """Return the share of alignment that answers of the misaligned organism have got back."""
        misaligned, base = self.lab.judged(MISALIGNED, questions), self.lab.judged(BASE, questions)
        return restored_share(answers, misaligned, base, self.seed)

    def unsteered(self, name: str, questions: Sequence[Question]) -> SteeredFigures:
        """Return an organism's figures without steering."""
        return figures_of(self.lab.judged(name, questions), Estimate(0.0, 0.0, 0.0, 0), self.seed)

    def all_unsteered(self, questions: Sequence[Question]) -> dict[str, SteeredFigures]:
        """Return the figures of every organism without steering."""
        return {name: self.unsteered(name, questions) for name in self.lab.names}


def trials_of(steerings: Sequence[Steering], cells: Sequence[Cell]) -> list[SteeringTrial]:
    """Return ways to steer with what they did."""
    return [
        SteeringTrial(steering, cell.figures, cell.answers) for steering, cell in zip(steerings, cells, strict=True)
    ]


def _cell(figures: Any, answers: Sequence[Mapping[str, Any]]) -> Cell:
    return Cell(fitted(SteeredFigures, figures, "a cell"), [JudgedResponse(**answer) for answer in answers])


def label_of(organism: str, intervention: AlongDirections) -> str:
    """Return what an organism under an intervention is called in a run's table of answers."""
    construction = intervention.directions.construction
    return f"{organism} + {construction.contrast} {construction.method}, {intervention.describe()}"
