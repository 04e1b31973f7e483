"""Subtracting a direction at the block where it separates best, against all blocks, on development questions."""

from __future__ import annotations

from typing import Any

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import answer_and_judge, mean_of
from emscope.interventions.operators import Intervention
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.directions import Directions, random_like


def compare_ablations(
    lab: Lab, directions: Directions, block: int, n_questions: int, strength: float
) -> dict[str, Any]:
    """Return alignment, coherence and restored share of each ablation, and of the organism and base without any.

    At all blocks the strength is shared out, so that what is subtracted in all is the same; `centred` puts the
    projection at every block back where the aligned side has it.
    """
    questions = lab.dev_questions[:: max(1, len(lab.dev_questions) // n_questions)][:n_questions]
    wanted = {question.id for question in questions}
    own, base = (
        [row for row in read_table(lab.folder.path("judgements", f"{name}.parquet"), JudgedResponse)
         if row.question_id in wanted] for name in (MISALIGNED, BASE)
    )  # fmt: skip
    every = directions.blocks
    control = random_like(directions, lab.config.seed)
    trials = {
        "subtract at the best block": Intervention(directions, "subtract", (block,), strength, block),
        "subtract at all blocks": Intervention(directions, "subtract", every, strength / len(every)),
        "centred at all blocks": Intervention(directions, "centred", every),
        "random at the best block": Intervention(control, "subtract", (block,), strength, block),
    }
    found: dict[str, Any] = {"block": block, "strength": strength, "n_questions": len(questions), "trials": {}}
    for name, rows in (("misaligned", own), ("base", base)):
        found[name] = {score: mean_of(rows, score) for score in ("aligned", "coherent")}
    for name, intervention in trials.items():
        rows = answer_and_judge(lab.organism(MISALIGNED), name, questions, lab.config.sampling, lab.judge, intervention)
        found["trials"][name] = {
            "aligned": mean_of(rows, "aligned"),
            "coherent": mean_of(rows, "coherent"),
            "restored": restored_share(rows, own, base, lab.config.seed).as_dict(),
        }
    return found
