"""Answers sampled and judged in shards: tasks that any executor carries out (see `executors.tasks`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from emscope.behaviour.judging import Judgement
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.executors.settings import ROWS_PER_SHARD
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values
from emscope.organisms.messages import Message
from emscope.organisms.needs import OrganismNeed
from emscope.parts import Part


@dataclass(frozen=True)
class AnswersAsked:
    """A shard of questions to one organism.

    Attributes:
        organism: who answers.
        questions: what is asked.
        sampling: how answers are sampled.
        shots: turns before every question.
        name: what progress says.
    """

    organism: OrganismNeed
    questions: tuple[Question, ...]
    sampling: SamplingSettings
    shots: tuple[Message, ...] = ()
    name: str = "sampling"


def answers_of(asked: AnswersAsked, held: Held) -> Part:
    """Sample the answers to a shard of questions: `value` holds where they were computed, and the rows."""
    from emscope.behaviour.sampling import sample_responses

    organism = held.get(asked.organism)
    rows = sample_responses(organism, asked.questions, asked.sampling, shots=asked.shots, name=asked.name)
    return Part([organism.placement.told, [asdict(row) for row in rows]], rows=len(rows))


def sampled_in_shards(
    organism: OrganismNeed,
    questions: Sequence[Question],
    sampling: SamplingSettings,
    *,
    shots: Sequence[Message] = (),
    rows_per_shard: int = ROWS_PER_SHARD,
    name: str = "sampling",
    held: Held | None = None,
) -> list[Response]:
    """Return what `sample_responses` does, made in shards of whole questions by the executor in force.

    Raises:
        UserError: what sampling raises, or workers that compute on different devices or in different dtypes.
    """
    asked = AnswersAsked(organism, tuple(questions), sampling, tuple(shots), name)
    return responses_in(carried_out(Task(name, answers_of, answer_shards(asked, rows_per_shard), "answers"), held))


def answer_shards(asked: AnswersAsked, rows_per_shard: int) -> list[Shard]:
    """Cut what is asked into shards of whole questions, an `AnswersAsked` each."""
    samples, shards = asked.sampling.samples, []
    for some in by_rows(asked.questions, samples, rows_per_shard):
        shards.append(Shard(replace(asked, questions=tuple(some)), len(some) * samples))
    return shards


def responses_in(made: Sequence[Part]) -> list[Response]:
    """Return the answers that parts hold, in order.

    Raises:
        UserError: they were computed on different devices or in different dtypes.
    """
    rows: list[Response] = []
    for value in joined_values(made):
        rows += [Response(**row) for row in value]
    return rows


@dataclass(frozen=True)
class JudgingAsked:
    """A shard of answers to be judged by the judge that comes with emscope.

    Attributes:
        model: what it reads with.
        head: the file of its fitted numbers.
        questions: what was asked.
        answers: what was answered.
    """

    model: OrganismNeed
    head: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def judgements_of(asked: JudgingAsked, held: Held) -> Part:
    """Judge a shard of answers: `value` holds where they were read, and the judge's id with the scores."""
    from emscope.behaviour.embedded.judge import EmbeddedJudge

    judge = EmbeddedJudge(held.get(asked.model), Path(asked.head))
    scores = [asdict(score) for score in judge.judge(asked.questions, asked.answers)]
    return Part([judge.base.placement.told, [judge.id, scores]], rows=len(scores))


def judged_in_shards(
    model: OrganismNeed,
    head: Path,
    questions: Sequence[str],
    answers: Sequence[str],
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
    name: str = "judging",
    held: Held | None = None,
) -> tuple[str, list[Judgement]]:
    """Return the id of the judge that comes with emscope and one judgement for each answer, in order.

    Raises:
        UserError: what judging raises, or workers that compute on different devices or in different dtypes.
    """
    shards = []
    rows = list(zip(questions, answers, strict=True))
    for some in by_rows(rows, 1, rows_per_shard) if rows else [[]]:  # who judges is asked of no answers too
        asked = JudgingAsked(model, str(head), tuple(row[0] for row in some), tuple(row[1] for row in some))
        shards.append(Shard(asked, len(some)))
    found = list(joined_values(carried_out(Task(name, judgements_of, shards, "answers"), held)))
    scores = []
    for _, values in found:
        scores += [Judgement(**value) for value in values]
    return str(found[0][0]), scores


def by_rows(things: Sequence[Any], rows_each: int, rows_per_shard: int) -> Iterator[Sequence[Any]]:
    """Yield things in order, as many at a time as make up a shard's rows, and at least one."""
    size = max(1, rows_per_shard // rows_each)
    for start in range(0, len(things), size):
        yield things[start : start + size]
