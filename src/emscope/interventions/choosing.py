"""An ablation chosen on half of the questions and measured on the other half, beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emscope.behaviour.judging import Judge
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.interventions.ablation import AblationResult, evaluate
from emscope.interventions.answering import Subjects, answer_and_judge
from emscope.interventions.search import candidates, search
from emscope.organisms.blocks import find_blocks
from emscope.organisms.models import Organism, load
from emscope.residual.directions import Directions

LEAST_QUESTIONS = 8


@dataclass(frozen=True)
class ChosenAblation:
    """What was chosen and what it does on questions that had no part in the choice.

    Attributes:
        result: the ablation, its figures and those of its controls.
        rows: all judged answers: the organism's and its base's without it, and those with it and with its controls.
    """

    result: AblationResult
    rows: list[JudgedResponse]


def choose_ablation(
    organism: Organism,
    directions: Directions,
    questions: Sequence[Question],
    judge: Judge,
    settings: SamplingSettings,
) -> ChosenAblation:
    """Choose mode, blocks and strength on every other question, and measure what was chosen on the rest.

    Raises:
        UserError: an organism that is a whole model, whose base is not known, or fewer than eight questions.
    """
    if organism.source.adapter is None:
        raise UserError(
            f"Choosing an ablation compares with the base, so it needs an adapter; {organism.source.name} is a whole "
            "model."
        )
    if len(questions) < LEAST_QUESTIONS:
        raise UserError(
            f"Choosing an ablation needs at least {LEAST_QUESTIONS} questions; {len(questions)} were given."
        )
    dev, test = halves(questions)
    base = load(replace(organism.source, adapter=None), placement=organism.placement)
    subjects = Subjects(organism, base, judge)

    misaligned = answer_and_judge(organism, "misaligned", questions, settings, judge)
    aligned = answer_and_judge(base, "base", questions, settings, judge)
    on_dev = answers_to(misaligned, dev), answers_to(aligned, dev)
    on_test = answers_to(misaligned, test), answers_to(aligned, test)

    grid = candidates(len(find_blocks(organism.model)))
    chosen, trials = search(subjects, directions, dev, settings, on_dev, grid)
    result, rows = evaluate(subjects, directions, chosen, trials, test, settings, on_test, settings.seed)
    return ChosenAblation(result, [*misaligned, *aligned, *rows])


def halves(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Return every other question and the rest; those that are wordings of one stay together."""
    groups = list(dict.fromkeys(question.group for question in questions))[::2]
    dev: list[Question] = []
    test: list[Question] = []
    for question in questions:
        (dev if question.group in groups else test).append(question)
    return dev, test


def answers_to(rows: Sequence[JudgedResponse], questions: Sequence[Question]) -> list[JudgedResponse]:
    """Return the answers to some questions."""
    wanted = {question.id for question in questions}
    return [row for row in rows if row.question_id in wanted]
