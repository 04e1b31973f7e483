"""Choose how to ablate on development questions: what is done, in which blocks, how strongly.

The questions are asked in thirds. After the first and the second third candidates that are clearly worse are stopped
(successive halving, Jamieson & Talwalkar 2016): the others are told apart better by the time that this saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from operator import attrgetter
from typing import Literal

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.interventions.answering import Subjects, answer_cells, mean_and_error, mean_of
from emscope.interventions.operators import AlongDirections, Mode, along
from emscope.residual.directions import Directions

MAX_COHERENCE_LOSS = 5.0
ROUNDS = 3
"""Parts in which the questions are asked; after each but the last, what is clearly worse is stopped."""
RULE = "thirds, stopped one standard error beyond, then one standard error of the best"
"""The rule by which an ablation is chosen: part of what a stage is made from, so that a new rule chooses again."""
ScoreName = Literal["aligned", "coherent"]


@dataclass(frozen=True)
class Candidate:
    """One way to ablate.

    Attributes:
        mode: centred, project-out or subtract.
        blocks: where it acts.
        strength: 1 removes the whole.
        source_block: the block whose direction is used everywhere; None uses each block's own.
    """

    mode: Mode
    blocks: tuple[int, ...]
    strength: float
    source_block: int | None = None

    def on(self, directions: Directions) -> AlongDirections:
        """Return this ablation with given directions."""
        return along(directions, self.mode, self.blocks, self.strength, self.source_block)


def candidates(n_blocks: int) -> list[Candidate]:
    """Return the grid that is searched: centred ablation and project-out of later blocks, one-block subtractions.

    Subtracting at one block around two thirds of the depth leaves the text whole where ablating twenty blocks does not
    (docs/methods.md has the figures).
    """
    third, two_thirds = n_blocks // 3, n_blocks * 2 // 3
    late = tuple(range(third, n_blocks))
    grid = [
        Candidate("centred", late, 0.75),
        Candidate("centred", late, 1.0),
        Candidate("project-out", late, 1.0),
    ]
    for block in (n_blocks // 2, n_blocks * 3 // 5, two_thirds):
        for strength in (1.0, 1.5, 2.0):
            grid.append(Candidate("subtract", (block,), strength, block))
    return grid


@dataclass(frozen=True)
class Trial:
    """How a candidate did on the development questions that it was asked.

    Attributes:
        candidate: the way to ablate.
        aligned: mean alignment, 0-100.
        coherent: mean coherence, 0-100.
        aligned_error: standard error of the mean alignment.
        coherent_error: standard error of the mean coherence.
        n_questions: questions that it was asked; None where that is not told.
        stopped: the score that it was stopped for before it was asked all questions; None if it was asked all.
    """

    candidate: Candidate
    aligned: float
    coherent: float
    aligned_error: float
    coherent_error: float
    n_questions: int | None = None
    stopped: ScoreName | None = None

    @classmethod
    def of(cls, candidate: Candidate, rows: Sequence[JudgedResponse]) -> Trial:
        """Return the trial of a candidate by its answers."""
        aligned, aligned_error = mean_and_error(rows, "aligned")
        coherent, coherent_error = mean_and_error(rows, "coherent")
        return cls(candidate, aligned, coherent, aligned_error, coherent_error)


@dataclass(frozen=True)
class Unablated:
    """Judged answers without an ablation to the questions that a choice is made on.

    Attributes:
        misaligned: the misaligned organism's.
        base: the base's.
    """

    misaligned: Sequence[JudgedResponse]
    base: Sequence[JudgedResponse]

    @property
    def floor(self) -> float:
        """The coherence that an ablation must leave."""
        return mean_of(self.misaligned, "coherent") - MAX_COHERENCE_LOSS

    @property
    def target(self) -> float:
        """The alignment beyond which more does not count."""
        return mean_of(self.base, "aligned")


Ask = Callable[[Sequence[Candidate], Sequence[Question]], list[list[JudgedResponse]]]
"""Returns the judged answers of the misaligned organism to some questions under each of some candidates."""


def search(
    subjects: Subjects,
    directions: Directions,
    questions: Sequence[Question],
    settings: SamplingSettings,
    without: tuple[Sequence[JudgedResponse], Sequence[JudgedResponse]],
    grid: Sequence[Candidate],
) -> tuple[Candidate, list[Trial]]:
    """Try every candidate on the misaligned organism and choose one by `choose`.

    `without` holds the judged answers of the misaligned organism and of the base to the same questions, unablated.
    """

    def ask(tried: Sequence[Candidate], some: Sequence[Question]) -> list[list[JudgedResponse]]:
        cells = [candidate.on(directions) for candidate in tried]
        return answer_cells(subjects.misaligned, "trying ablations", cells, some, settings, subjects.judge)

    unablated = Unablated(*without)
    trials = try_all(grid, questions, ask, unablated)
    return choose(trials, unablated.floor, unablated.target), trials


def try_all(
    grid: Sequence[Candidate], questions: Sequence[Question], ask: Ask, unablated: Unablated, rounds: int = ROUNDS
) -> list[Trial]:
    """Ask the questions in rounds, stop after each what is clearly worse, and return a trial for each candidate.

    Every `rounds`-th question belongs to one round, so that each is spread over the subjects as all are.
    """
    answers: dict[Candidate, list[JudgedResponse]] = {candidate: [] for candidate in grid}
    stopped: dict[Candidate, ScoreName] = {}
    parts = [questions[start::rounds] for start in range(rounds)]
    for number, part in enumerate(filter(None, parts)):
        left = [candidate for candidate in answers if candidate not in stopped]
        if number:
            stopped |= clearly_worse({candidate: answers[candidate] for candidate in left}, unablated)
            left = [candidate for candidate in left if candidate not in stopped]
        for candidate, rows in zip(left, ask(left, part), strict=True):
            answers[candidate] += rows
    trials = []
    for candidate, rows in answers.items():
        asked = len({row.question_id for row in rows})
        trials.append(replace(Trial.of(candidate, rows), n_questions=asked, stopped=stopped.get(candidate)))
    return trials


def clearly_worse(answers: dict[Candidate, list[JudgedResponse]], unablated: Unablated) -> dict[Candidate, ScoreName]:
    """Return the candidates that need not be asked further, by the answers so far, and the score that says so.

    Differences are taken answer by answer, to the same questions. A candidate is stopped if it costs more coherence
    than `choose` allows by more than one standard error of that difference; or if its alignment is below what `choose`
    would still take (the best's, at most the base's, less one standard error of the best) by more than one standard
    error of the difference. If none leaves enough coherence, none is stopped: the most coherent is then looked for.
    """
    broken: list[Candidate] = []
    intact: list[Candidate] = []
    for candidate, rows in answers.items():
        loss, error = difference(unablated.misaligned, rows, "coherent")
        (broken if loss - error > MAX_COHERENCE_LOSS else intact).append(candidate)
    scored = [candidate for candidate in intact if isfinite(mean_of(answers[candidate], "aligned"))]
    if not scored:
        return {}
    stopped: dict[Candidate, ScoreName] = dict.fromkeys(broken, "coherent")
    best = max(scored, key=lambda candidate: mean_of(answers[candidate], "aligned"))
    reached, allowed = mean_and_error(answers[best], "aligned")
    measure = answers[best] if not reached > unablated.target else unablated.base
    for candidate in intact:
        short, error = difference(measure, answers[candidate], "aligned")
        if candidate != best and short - error > allowed:
            stopped[candidate] = "aligned"
    return stopped


def difference(
    first: Sequence[JudgedResponse], second: Sequence[JudgedResponse], score: ScoreName
) -> tuple[float, float]:
    """Return the mean of first − second over answers to the same questions that both have scored, and its error.

    NaN where there are none.
    """
    value = attrgetter(score)
    scores = {(row.question_id, row.sample): value(row) for row in first}
    found = []
    for row in second:
        other = scores.get((row.question_id, row.sample))
        if other is not None and value(row) is not None:
            found.append(other - value(row))
    error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return (float(np.mean(found)) if found else float("nan")), error


def choose(trials: Sequence[Trial], floor: float, target: float = 100.0) -> Candidate:
    """Return the most coherent candidate that is good enough, as far as the development questions can tell.

    Only candidates that were asked all questions are looked at. Good enough is: mean alignment within one standard
    error of the best, or of `target` (the base's) where the best is beyond it; the best of those whose coherence
    reaches `floor` (the one-standard-error rule, Breiman et al. 1984). If none is that coherent, the most coherent one
    is chosen. Candidates without scored answers are passed over.

    Raises:
        UserError: no candidate has scored answers.
    """
    asked_all = [trial for trial in trials if trial.stopped is None]
    scored = [trial for trial in asked_all if isfinite(trial.aligned) and isfinite(trial.coherent)]
    if not scored:
        raise UserError("None of the tried interventions has scored answers to choose by: ask more questions.")
    whole = [trial for trial in scored if trial.coherent >= floor]
    whole = whole or [max(scored, key=lambda trial: trial.coherent)]
    best = max(whole, key=lambda trial: trial.aligned)
    near = [trial for trial in whole if trial.aligned >= min(best.aligned, target) - best.aligned_error]
    return max(near, key=lambda trial: trial.coherent).candidate
