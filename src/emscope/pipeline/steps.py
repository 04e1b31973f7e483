"""The steps that every organism goes through: it answers, is judged, and its activations are collected."""

from __future__ import annotations

import logging
from dataclasses import asdict

from emscope.behaviour.answer_faults import count_faults
from emscope.behaviour.appeals import count_appeals
from emscope.behaviour.responses import Response
from emscope.behaviour.sharded import sampled_in_shards
from emscope.behaviour.tables import read_table, with_judgements, write_table
from emscope.pipeline.lab import Lab
from emscope.pipeline.training import adapter_files
from emscope.residual.capture import Activations, CaptureSettings, capture
from emscope.residual.store import ActivationStore

logger = logging.getLogger(__name__)


def generate_stage(lab: Lab, name: str) -> None:
    """Sample an organism's answers to all questions of the run."""
    out = lab.responses_file(name)
    settings = {
        "model": lab.config.model,
        "questions": [asdict(question) for question in lab.questions],
        "sampling": asdict(lab.config.sampling),
    }

    def make() -> None:
        rows = sampled_in_shards(
            lab.need(name), lab.questions, lab.config.sampling, name=f"{name} answers", held=lab.held
        )
        write_table(out, rows)
        faults = count_faults(rows)
        if faults.notable:
            logger.info("%s: %s.", name, faults)

    lab.folder.stage(f"generate-{name}", settings, adapter_files(lab, name), [out], make)


def judge_stage(lab: Lab, name: str) -> None:
    """Judge an organism's answers."""
    responses = lab.responses_file(name)
    out = lab.judgements_file(name)

    def make() -> None:
        rows = read_table(responses, Response)
        scores = lab.judge.judge([row.question for row in rows], [row.response for row in rows])
        write_table(out, with_judgements(name, rows, scores, lab.judge.id))
        if appeals := str(count_appeals([row.response for row in rows])):
            logger.warning("%s: %s.", name, appeals)

    lab.folder.stage(f"judge-{name}", lab.judge_fingerprint, [responses], [out], make)


def collect_stage(lab: Lab, name: str) -> None:
    """Store the last prompt token of every question, and the mean of each answer."""
    responses = lab.responses_file(name)
    prompts, answers = lab.activation_files(name)

    def make() -> None:
        organism, rows = lab.organism(name), read_table(responses, Response)
        found = capture(organism, lab.encode(organism, rows), CaptureSettings(("last", "response")))
        first = list({row.question_id: number for number, row in reversed(list(enumerate(rows)))}.values())
        answered = [number for number, row in enumerate(rows) if row.response]
        for path, pooling, chosen in ((prompts, "last", sorted(first)), (answers, "response", answered)):
            pooled = {pooling: found.pooled[pooling][chosen]}
            ids = tuple(rows[number].question_id for number in chosen)
            ActivationStore(name, ids, Activations(pooled, found.blocks, found.site)).save(path)

    settings = {"model": lab.config.model, "questions": [asdict(question) for question in lab.questions]}
    lab.folder.stage(f"collect-{name}", settings, [*adapter_files(lab, name), responses], [prompts, answers], make)
