"""A direction subtracted at the block where it separates best, against all blocks, at the same disturbance.

Shares of a strength are not comparable: the vectors of blocks differ in length, and what is written early passes
through more of the model. So each ablation, and a random one beside it, is set to the KL divergence that the one at the
best block has on development questions; what they do is measured on test questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse
from emscope.experiments.sweep.result import (
    BEST,
    CENTRED,
    EVERY,
    RANDOM_BEST,
    RANDOM_EVERY,
    AblationTrial,
    MeanScores,
    SweepAblation,
)
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import mean_of
from emscope.interventions.calibration import coefficients_for
from emscope.interventions.kl import ForcedText, Undisturbed
from emscope.interventions.operators import AlongDirections, along
from emscope.interventions.steering import SteeredOrganism, measure
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.directions import Directions, random_like
from emscope.sequences import spread

KL_QUESTIONS = 10


def compare_ablations(
    lab: Lab, name: str, directions: Directions, block: int, n_questions: int, strength: float
) -> SweepAblation:
    """Return what each ablation does, and the scores of the organism and the base without any.

    `strength` is that at the best block; its disturbance on development questions is what the others are set to. The
    centred ablation puts the projection at every block back where the aligned side has it, and has no strength to set.
    """
    ablations, nats = ablations_at_one_disturbance(lab, directions, block, strength)

    questions = spread(lab.test_questions, n_questions)
    misaligned, base = lab.judged(MISALIGNED, questions), lab.judged(BASE, questions)
    organism = SteeredOrganism(MISALIGNED, undisturbed(lab, lab.test_questions))
    measured = measure(organism, list(ablations.values()), questions, lab.config.sampling, lab.judge)

    trials: dict[str, AblationTrial] = {}
    for (trial, intervention), (figures, rows) in zip(ablations.items(), measured, strict=True):
        trials[trial] = AblationTrial(
            strength=intervention.strength,
            kl=figures.kl,
            aligned=mean_of(rows, "aligned"),
            coherent=mean_of(rows, "coherent"),
            restored=restored_share(rows, misaligned, base, lab.config.seed),
        )
    return SweepAblation(
        construction=name,
        block=block,
        strength=strength,
        nats=nats,
        n_questions=len(questions),
        misaligned=_mean_scores(misaligned),
        base=_mean_scores(base),
        trials=trials,
    )


def _mean_scores(rows: Sequence[JudgedResponse]) -> MeanScores:
    return MeanScores(mean_of(rows, "aligned"), mean_of(rows, "coherent"))


def ablations_at_one_disturbance(
    lab: Lab, directions: Directions, block: int, strength: float
) -> tuple[Mapping[str, AlongDirections], float]:
    """Return the ablations by name, and the disturbance that all but the centred one have, in nats a token."""
    blocks, control = directions.blocks, random_like(directions, lab.config.seed)
    best = along(directions, "subtract", (block,), strength, block)
    others = {
        EVERY: along(directions, "subtract", blocks, strength / len(blocks)),
        RANDOM_BEST: replace(best, directions=control),
        RANDOM_EVERY: along(control, "subtract", blocks, strength / len(blocks)),
    }

    text, starts = undisturbed(lab, lab.dev_questions), list(others.values())
    nats = text.divergence(best).per_token

    def nats_at(searches: Sequence[int], strengths: Sequence[float]) -> list[float]:
        tried = []
        for search, tried_strength in zip(searches, strengths, strict=True):
            tried.append(replace(starts[search], strength=tried_strength))
        return [disturbance.per_token for disturbance in text.divergences(tried)]

    first_strengths = [intervention.strength for intervention in starts]
    searches = coefficients_for([nats] * len(starts), first_strengths, nats_at)

    ablations = {BEST: best}
    for (name, intervention), search in zip(others.items(), searches, strict=True):
        ablations[name] = replace(intervention, strength=search.coefficient)
    ablations[CENTRED] = along(directions, "centred", blocks)
    return ablations, nats


def undisturbed(lab: Lab, questions: Sequence[Question]) -> Undisturbed:
    """Return the misaligned organism with its own answers to a few of the questions."""
    organism = lab.organism(MISALIGNED)
    rows = [row for row in lab.judged(MISALIGNED, spread(questions, KL_QUESTIONS)) if row.response]
    return Undisturbed(organism, ForcedText(lab.encode(organism, rows), [row.group for row in rows]))
