"""Subtracting a direction at the block where it separates best, against all blocks, at the same disturbance.

Shares of a strength are not comparable: the vectors of blocks differ in length, and what is written early passes
through more of the model. So each ablation, and a random one beside it, is set to the KL divergence that the one at the
best block has on development questions; what they do is measured on test questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.experiments.bench import spread
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import mean_of
from emscope.interventions.calibration import coefficients_for
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import Intervention
from emscope.interventions.steering import Subject, measure
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.directions import Directions, random_like

KL_QUESTIONS = 10
BEST, EVERY = "subtract at the best block", "subtract at all blocks"
RANDOM = {BEST: "random at the best block", EVERY: "random at all blocks"}
CENTRED = "centred at all blocks"


def compare_ablations(
    lab: Lab, directions: Directions, block: int, n_questions: int, strength: float
) -> dict[str, Any]:
    """Return alignment, coherence and restored share of each ablation, and of the organism and base without any.

    `strength` is that at the best block; `nats`, its disturbance on development questions, is what the others are set
    to. `centred` puts the projection at every block back where the aligned side has it, and has no strength to set.
    """
    plan, nats = _at_one_disturbance(lab, directions, block, strength)
    questions = spread(lab.test_questions, n_questions)
    own, base = (_answers(lab, name, questions) for name in (MISALIGNED, BASE))
    subject = Subject(MISALIGNED, _undisturbed(lab, lab.test_questions))
    measured = measure(subject, list(plan.values()), questions, lab.config.sampling, lab.judge)
    return {
        "block": block,
        "strength": strength,
        "nats": nats,
        "n_questions": len(questions),
        **{
            name: {score: mean_of(rows, score) for score in ("aligned", "coherent")}
            for name, rows in (("misaligned", own), ("base", base))
        },
        "trials": {
            name: {
                "strength": intervention.strength,
                "kl": figures.kl.as_dict(),
                "aligned": mean_of(rows, "aligned"),
                "coherent": mean_of(rows, "coherent"),
                "restored": restored_share(rows, own, base, lab.config.seed).as_dict(),
            }
            for (name, intervention), (figures, rows) in zip(plan.items(), measured, strict=True)
        },
    }


def _at_one_disturbance(
    lab: Lab, directions: Directions, block: int, strength: float
) -> tuple[Mapping[str, Intervention], float]:
    """Return the ablations by name, all but the centred one at the disturbance of the first, and that disturbance."""
    every, control = directions.blocks, random_like(directions, lab.config.seed)
    best = Intervention(directions, "subtract", (block,), strength, block)
    others = {
        EVERY: Intervention(directions, "subtract", every, strength / len(every)),
        RANDOM[BEST]: replace(best, directions=control),
        RANDOM[EVERY]: Intervention(control, "subtract", every, strength / len(every)),
    }
    text, names = _undisturbed(lab, lab.dev_questions), list(others)
    target = text.divergence(best).per_token

    def nats_at(searches: Sequence[int], strengths: Sequence[float]) -> list[float]:
        tried = [replace(others[names[number]], strength=one) for number, one in zip(searches, strengths, strict=True)]
        return [found.per_token for found in text.divergences(tried)]

    found = coefficients_for([target] * len(names), [item.strength for item in others.values()], nats_at)
    found_at = {name: replace(others[name], strength=item.coefficient) for name, item in zip(names, found, strict=True)}
    return {BEST: best, **found_at, CENTRED: Intervention(directions, "centred", every)}, target


def _undisturbed(lab: Lab, questions: Sequence[Question]) -> Undisturbed:
    """Return the misaligned organism with its own answers to a few of the questions."""
    organism = lab.organism(MISALIGNED)
    rows = [row for row in _answers(lab, MISALIGNED, spread(questions, KL_QUESTIONS)) if row.response]
    return Undisturbed(organism, ForcedText(lab.encode(organism, rows), [row.group for row in rows]))


def _answers(lab: Lab, name: str, questions: Sequence[Question]) -> list[JudgedResponse]:
    wanted = {question.id for question in questions}
    rows = read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse)
    return [row for row in rows if row.question_id in wanted]
