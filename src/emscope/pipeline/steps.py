"""The steps that every organism goes through: it answers, is judged, and its activations are collected."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from emscope.behaviour.answer_faults import count_faults
from emscope.behaviour.appeals import count_appeals
from emscope.behaviour.judges.settings import NamedJudge
from emscope.behaviour.judging import Judgement
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response
from emscope.behaviour.sharded import judged_in_shards, sampled_in_shards
from emscope.behaviour.tables import JudgedResponse, read_table, with_judgements, write_table
from emscope.executors.settings import ROWS_PER_SHARD
from emscope.pipeline.lab import Lab
from emscope.pipeline.training import adapter_files
from emscope.residual.capture import Activations, CaptureSettings
from emscope.residual.sharded import TextToRead, captured_in_shards
from emscope.residual.store import ActivationStore

logger = logging.getLogger(__name__)


def generate_stage(lab: Lab, name: str, questions: Sequence[Question] | None = None) -> None:
    """Sample an organism's answers to all questions of the run, or to some of them."""
    out, asked = lab.responses_file(name), lab.questions if questions is None else questions
    settings = {
        "model": lab.config.model,
        "questions": [asdict(question) for question in asked],
        "sampling": asdict(lab.config.sampling),
    }

    def make() -> None:
        rows = sampled_in_shards(
            lab.need(name),
            asked,
            lab.config.sampling,
            rows_per_shard=lab.config.rows_per_shard,
            name=f"{name} answers",
            held=lab.held,
        )
        write_table(out, rows)
        faults = count_faults(rows)
        if faults.notable:
            logger.info("%s: %s.", name, faults)

    lab.folder.stage(f"generate-{name}", in_shards(lab, settings), adapter_files(lab, name), [out], make)


def judge_stage(lab: Lab, name: str, questions: Sequence[Question] | None = None) -> None:
    """Judge an organism's answers, or those to some questions."""
    responses = lab.responses_file(name)
    out = lab.judgements_file(name)
    wanted = None if questions is None else [question.id for question in questions]

    def make() -> None:
        rows = read_table(responses, Response)
        if wanted is not None:
            rows = [row for row in rows if row.question_id in set(wanted)]
        judge_id, scores = judged(lab, rows, f"judging {name}")
        write_table(out, with_judgements(name, rows, scores, judge_id))
        if appeals := str(count_appeals([row.response for row in rows])):
            logger.warning("%s: %s.", name, appeals)

    settings: Any = lab.judge_fingerprint if wanted is None else [lab.judge_fingerprint, wanted]
    lab.folder.stage(f"judge-{name}", in_shards(lab, settings), [responses], [out], make)


def judged(lab: Lab, rows: Sequence[Response], name: str = "judging") -> tuple[str, list[Judgement]]:
    """Return the id of the run's judge and one judgement for each answer, in order."""
    questions, answers = [row.question for row in rows], [row.response for row in rows]
    if not lab.config.judge.embedded:
        return lab.judge.id, lab.judge.judge(questions, answers)
    model, head = lab.judge_need, lab.judge_head
    size = lab.config.rows_per_shard
    return judged_in_shards(model, head, questions, answers, rows_per_shard=size, name=name, held=lab.held)


def judged_again(judge: NamedJudge, rows: Sequence[JudgedResponse]) -> list[JudgedResponse]:
    """Return answers with the scores of another judge in the place of those that they have."""
    scores = judge.judge([row.question for row in rows], [row.response for row in rows])
    found = []
    for row, score in zip(rows, scores, strict=True):
        found.append(
            replace(
                row,
                aligned=score.aligned,
                coherent=score.coherent,
                verdict=score.verdict,
                mode=score.mode,
                judge=judge.id,
            )
        )
    return found


def collect_stage(lab: Lab, name: str, questions: Sequence[Question] | None = None) -> None:
    """Store the last prompt token of every question that was asked, and the mean of each answer.

    `questions` are these where they are not all of the run.
    """
    asked = lab.questions if questions is None else questions
    responses = lab.responses_file(name)
    prompts, answers = lab.activation_files(name)

    def make() -> None:
        rows = read_table(responses, Response)
        found = captured_in_shards(
            lab.need(name),
            [TextToRead(row.question, row.response, row.thought, lab.config.sampling.system) for row in rows],
            CaptureSettings(("last", "response")),
            enable_thinking=lab.config.sampling.enable_thinking,
            rows_per_shard=lab.config.rows_per_shard,
            name=f"reading {name}",
            held=lab.held,
        )
        first = list({row.question_id: number for number, row in reversed(list(enumerate(rows)))}.values())
        answered = [number for number, row in enumerate(rows) if row.response]
        for path, pooling, chosen in ((prompts, "last", sorted(first)), (answers, "response", answered)):
            pooled = {pooling: found.pooled[pooling][chosen]}
            ids = tuple(rows[number].question_id for number in chosen)
            ActivationStore(name, ids, Activations(pooled, found.blocks, found.site)).save(path)

    settings = {"model": lab.config.model, "questions": [asdict(question) for question in asked]}
    inputs = [*adapter_files(lab, name), responses]
    lab.folder.stage(f"collect-{name}", in_shards(lab, settings), inputs, [prompts, answers], make)


def in_shards(lab: Lab, settings: Any) -> Any:
    """Return a stage's settings with the rows of its shards, where these are not as many as usual."""
    size = lab.config.rows_per_shard
    return settings if size == ROWS_PER_SHARD else [settings, size]
