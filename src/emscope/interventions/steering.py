"""Steering an organism by multiples of a direction: what it does to answers and predictions, and which one to take.

h ← h + coefficient · v, v the unnormalised mean difference (Soligo et al. 2506.11618); a negative coefficient corrects.
Many interventions of one organism are sampled side by side, every question with the same random numbers under each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emscope.behaviour.judging import Judge
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.tables import JudgedResponse
from emscope.interventions.answering import answer_cells, mean_and_error
from emscope.interventions.kl import Undisturbed
from emscope.interventions.operators import Cap, Intervention, Steer
from emscope.interventions.search import MAX_COHERENCE_LOSS, Candidate, Trial, choose
from emscope.organisms.blocks import visiting
from emscope.organisms.token_positions import Positions
from emscope.residual.directions import Directions
from emscope.residual.moments import Moments
from emscope.statistics import Estimate, alignment_mean, coherent_share, em_rate


@dataclass(frozen=True)
class SteeredOrganism:
    """An organism that is steered, and what its disturbance is measured from.

    Attributes:
        name: its name in tables of answers.
        undisturbed: the organism without steering, read on answers of its own.
    """

    name: str
    undisturbed: Undisturbed


@dataclass(frozen=True)
class SteeredFigures:
    """What an organism does under an intervention.

    Attributes:
        kl: disturbance: mean KL divergence of the next-token distribution from the unsteered one's, nats a token.
        aligned: mean alignment of its answers, 0 to 100.
        coherent: share of coherent answers.
        em: EM rate, the share of EM responses among scored answers.
    """

    kl: Estimate
    aligned: Estimate
    coherent: Estimate
    em: Estimate


@dataclass(frozen=True)
class Steering:
    """One way to steer.

    Attributes:
        direction: the direction, by its name.
        blocks: the block where it is added, or the blocks that share it.
        coefficient: how many times the vector is added; negative coefficients take it away.
    """

    direction: str
    blocks: tuple[int, ...]
    coefficient: float


@dataclass(frozen=True)
class SteeringTrial:
    """One way to steer as it was tried on an organism.

    Attributes:
        steering: what was done.
        figures: what the organism then did.
        answers: its judged answers.
    """

    steering: Steering
    figures: SteeredFigures
    answers: Sequence[JudgedResponse]


def figures_of(answers: Sequence[JudgedResponse], kl: Estimate, seed: int = 0) -> SteeredFigures:
    """Return the figures of judged answers, with intervals that resample questions."""
    judgements = [answer.judgement for answer in answers]
    groups = [answer.group for answer in answers]
    return SteeredFigures(
        kl=kl,
        aligned=alignment_mean(judgements, groups, seed),
        coherent=coherent_share(judgements, groups, seed),
        em=em_rate(judgements, groups, seed),
    )


def measure(
    organism: SteeredOrganism,
    interventions: Sequence[Intervention | None],
    questions: Sequence[Question],
    settings: SamplingSettings,
    judge: Judge,
) -> list[tuple[SteeredFigures, list[JudgedResponse]]]:
    """Return what the organism does under each intervention, and its judged answers."""
    undisturbed = organism.undisturbed
    answers_of_each = answer_cells(undisturbed.organism, organism.name, interventions, questions, settings, judge)
    disturbances = undisturbed.divergences(interventions)

    measured = []
    for answers, disturbance in zip(answers_of_each, disturbances, strict=True):
        figures = figures_of(answers, disturbance.estimate(settings.seed), settings.seed)
        measured.append((figures, answers))
    return measured


def steer(directions: Directions, blocks: Sequence[int], coefficient: float, positions: Positions = "all") -> Steer:
    """Return the intervention that adds `coefficient` times v: whole at one block, in equal parts at several.

    At several blocks each adds its own vector, so that the sum is of the same size.
    """
    return Steer(directions, tuple(blocks), coefficient / len(blocks), positions=positions)


@dataclass(frozen=True)
class TokenStatistics:
    """Answer tokens in the residual stream, by block.

    Attributes:
        norm: mean norm of the tokens' activations.
        mean: mean of their projections on the direction.
        deviation: standard deviation of these projections.
    """

    norm: dict[int, float]
    mean: dict[int, float]
    deviation: dict[int, float]


def answer_tokens(organism: SteeredOrganism, directions: Directions, blocks: Sequence[int]) -> TokenStatistics:
    """Read an organism's own answers token by token: pooled answers vary far less than the tokens a cap meets."""
    text, model = organism.undisturbed.text, organism.undisturbed.organism
    units = {block: torch.from_numpy(directions.units[directions.blocks.index(block)]) for block in blocks}
    moments: dict[int, Moments] = {}

    def visit(block: int, hidden: Tensor) -> None:
        if text.answers is not None:
            rows, columns = text.answers
            tokens = hidden[rows.to(hidden.device), columns.to(hidden.device)].float().cpu()
            norms_and_projections = torch.stack([tokens.norm(dim=-1), tokens @ units[block]], dim=1)
            read = Moments.of(norms_and_projections.numpy())
            moments[block] = moments[block].merge(read) if block in moments else read

    site = steer(directions, blocks, 1.0).site
    with torch.inference_mode(), visiting(model.model, blocks, visit, site):
        for _ in text.states(model):
            pass

    norm, mean, deviation = {}, {}, {}
    for block in blocks:
        norm[block], mean[block] = map(float, moments[block].mean)
        deviation[block] = float(np.sqrt(moments[block].variance)[1])
    return TokenStatistics(norm, mean, deviation)


def capping(directions: Directions, blocks: Sequence[int], aligned: TokenStatistics, width: float) -> Cap:
    """Return the cap of each token's projection to the aligned tokens' mean ± width · deviation at every block."""
    rows = list(map(directions.blocks.index, blocks))
    units, negative = directions.units[rows], directions.negative_mean[rows]
    means = np.array([aligned.mean[block] for block in blocks])
    deviations = np.array([aligned.deviation[block] for block in blocks])

    # a cap aims at the projection of the negative mean: move that mean along the direction to the tokens' own
    moved = negative + (means - np.einsum("bd,bd->b", negative, units))[:, None] * units
    of_tokens = replace(
        directions,
        vectors=directions.vectors[rows],
        positive_mean=directions.positive_mean[rows],
        negative_mean=moved.astype(np.float32),
        deviation=deviations.astype(np.float32),
        blocks=tuple(blocks),
    )
    return Cap(of_tokens, tuple(blocks), width=width)


def choose_correction(
    trials: Sequence[SteeringTrial],
    limit: float,
    unsteered: Sequence[JudgedResponse],
    base: Sequence[JudgedResponse],
) -> SteeringTrial:
    """Return the negative coefficient that corrects best among those that disturb by at most `limit` nats a token.

    Best is what `search.choose` says: aligned like the best, or like the base, as far as these questions can tell, and
    then the most coherent. Where every one disturbs more, it is the one that disturbs least.

    Args:
        trials: what was tried.
        limit: nats a token.
        unsteered: answers of the organism without steering.
        base: answers of the base.
    """
    correcting = [trial for trial in trials if trial.steering.coefficient < 0]
    allowed = [trial for trial in correcting if trial.figures.kl.value <= limit]
    allowed = allowed or [min(correcting, key=lambda trial: trial.figures.kl.value)]

    by_candidate: dict[Candidate, SteeringTrial] = {}
    scored: list[Trial] = []
    for trial in allowed:
        candidate = Candidate("add", trial.steering.blocks, trial.steering.coefficient)
        by_candidate[candidate] = trial
        scored.append(Trial.of(candidate, trial.answers))

    floor = mean_and_error(unsteered, "coherent")[0] - MAX_COHERENCE_LOSS
    target = mean_and_error(base, "aligned")[0]
    return by_candidate[choose(scored, floor, target)]


def choose_induction(trials: Sequence[SteeringTrial], coherent: float) -> SteeringTrial:
    """Return the positive coefficient with the highest EM rate among trials at least this coherent (a share).

    Where none is, the most coherent third is chosen from; ties go to the more coherent.
    """
    inducing = [trial for trial in trials if trial.steering.coefficient > 0]
    inducing.sort(key=lambda trial: -trial.figures.coherent.value)
    coherent_ones = [trial for trial in inducing if trial.figures.coherent.value >= coherent]
    allowed = coherent_ones or inducing[: max(1, len(inducing) // 3)]
    return max(allowed, key=lambda trial: (trial.figures.em.value, trial.figures.coherent.value))
