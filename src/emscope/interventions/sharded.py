"""Answers under an ablation, sampled in shards: a task that any executor carries out (see `executors.tasks`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sharded import AnswersAsked, answer_shards, answers_of, responses_in
from emscope.executors.settings import ROWS_PER_SHARD
from emscope.executors.tasks import Held, Shard, Task, carried_out
from emscope.files import file_sha256
from emscope.interventions.settings import AblationSettings
from emscope.organisms.messages import Message
from emscope.organisms.needs import OrganismNeed
from emscope.parts import Part


@dataclass(frozen=True)
class AblatedAnswersAsked:
    """A shard of questions to an organism under an ablation.

    Attributes:
        answers: what is asked.
        ablation: how directions are taken out.
        directions: their file.
        sha256: its hash.
    """

    answers: AnswersAsked
    ablation: AblationSettings
    directions: str
    sha256: str


def ablated_answers_of(asked: AblatedAnswersAsked, held: Held) -> Part:
    """Sample the answers to a shard of questions under the ablation; `value` is as in `answers_of`."""
    from emscope.interventions.operators import applied

    with applied(held.get(asked.answers.organism), asked.ablation.along(Path(asked.directions))):
        return answers_of(asked.answers, held)


def ablated_in_shards(
    organism: OrganismNeed,
    ablation: AblationSettings,
    directions: Path,
    questions: Sequence[Question],
    sampling: SamplingSettings,
    *,
    shots: Sequence[Message] = (),
    rows_per_shard: int = ROWS_PER_SHARD,
    name: str = "sampling",
    held: Held | None = None,
) -> list[Response]:
    """Return what `sample_responses` does under an ablation, made in shards of whole questions.

    Raises:
        UserError: what sampling raises, or directions that do not fit.
    """
    known, shards = file_sha256(directions), []
    asked = AnswersAsked(organism, tuple(questions), sampling, tuple(shots), name)
    for shard in answer_shards(asked, rows_per_shard):
        shards.append(Shard(AblatedAnswersAsked(shard.given, ablation, str(directions), known), shard.rows))
    return responses_in(carried_out(Task(name, ablated_answers_of, shards, "answers"), held))
