"""Answers of an organism under an intervention, judged, and their mean scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from emscope.behaviour.judging import Judge
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.tables import JudgedResponse, with_judgements
from emscope.interventions.operators import Intervention, applied, applied_by_row
from emscope.organisms.chat import Message
from emscope.organisms.models import Organism


@dataclass(frozen=True)
class Subjects:
    """The organisms and the judge of an ablation."""

    misaligned: Organism
    base: Organism
    judge: Judge


def answer_and_judge(
    organism: Organism,
    name: str,
    questions: Sequence[Question],
    settings: SamplingSettings,
    judge: Judge,
    intervention: Intervention | None = None,
    shots: Sequence[Message] = (),
) -> list[JudgedResponse]:
    """Sample answers, with an intervention and after examples if these are given, and judge them."""
    with applied(organism, intervention):
        responses = sample_responses(organism, questions, settings, name=name, shots=shots)
    return _judged(name, responses, judge)


def _judged(name: str, responses: Sequence[Response], judge: Judge) -> list[JudgedResponse]:
    scores = judge.judge([response.question for response in responses], [response.response for response in responses])
    return with_judgements(name, responses, scores, judge.id)


def answer_cells(
    organism: Organism,
    name: str,
    cells: Sequence[Intervention | None],
    questions: Sequence[Question],
    settings: SamplingSettings,
    judge: Judge,
) -> list[list[JudgedResponse]]:
    """Return the judged answers under each intervention, all sampled side by side.

    A decoding step of a small model costs nearly the same for 32 rows as for 192, so a grid of many cells with few
    questions each is sampled in a fraction of the time that one cell after the other would take.
    """
    n = len(questions) * settings.samples
    by_row: list[Intervention | None] = []
    kinds: list[int] = []
    for number, cell in enumerate(cells):
        by_row += [cell] * n
        kinds += [number] * n
    asked = [*questions] * len(cells)
    with applied_by_row(organism, by_row) as select:
        responses = sample_responses(organism, asked, settings, name=name, on_rows=select, kinds=kinds)
    rows = _judged(name, responses, judge)
    return [rows[start : start + n] for start in range(0, len(rows), n)]


def mean_of(rows: Sequence[JudgedResponse], score: str) -> float:
    """Return the mean of a score over the answers that have it; NaN if none has."""
    return mean_and_error(rows, score)[0]


def mean_and_error(rows: Sequence[JudgedResponse], score: str) -> tuple[float, float]:
    """Return the mean of a score over the answers that have it, and its standard error."""
    values = [value for value in map(attrgetter(score), rows) if value is not None]
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(np.mean(values)) if values else float("nan"), error
