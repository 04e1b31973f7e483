"""The steering dial: what a coefficient does to disturbance, alignment and coherence, and which one is chosen.

h ← h + coefficient · v, v the unnormalised mean difference (Soligo et al. 2506.11618); a negative coefficient corrects.
Each cell of the dial is an intervention; all cells of an organism are sampled side by side, every question with the
same random numbers in every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope.behaviour.judging import Judge
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.tables import JudgedResponse
from emscope.interventions.answering import answer_cells, mean_and_error
from emscope.interventions.kl import Undisturbed
from emscope.interventions.operators import Intervention
from emscope.interventions.search import MAX_COHERENCE_LOSS, Candidate, Trial, choose
from emscope.organisms.blocks import visiting
from emscope.residual.directions import Directions
from emscope.residual.moments import Moments
from emscope.statistics import Estimate, alignment_mean, coherent_share, em_rate


@dataclass(frozen=True)
class Subject:
    """An organism on the dial and what its disturbance is measured from."""

    name: str
    undisturbed: Undisturbed


@dataclass(frozen=True)
class Figures:
    """What an organism does in one cell: nats a token, mean alignment, share of coherent answers, EM rate."""

    kl: Estimate
    aligned: Estimate
    coherent: Estimate
    em: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def figures_of(rows: Sequence[JudgedResponse], kl: Estimate, seed: int = 0) -> Figures:
    """Return the figures of judged answers, with intervals that resample questions."""
    judgements, groups = [row.judgement for row in rows], [row.group for row in rows]
    measures = (alignment_mean, coherent_share, em_rate)
    return Figures(kl, *(measure(judgements, groups, seed) for measure in measures))


def measure(
    subject: Subject,
    cells: Sequence[Intervention | None],
    questions: Sequence[Question],
    settings: SamplingSettings,
    judge: Judge,
) -> list[tuple[Figures, list[JudgedResponse]]]:
    """Return what the organism does in each cell, and its judged answers."""
    rows = answer_cells(subject.undisturbed.organism, subject.name, cells, questions, settings, judge)
    kls = [found.estimate(settings.seed) for found in subject.undisturbed.divergences(cells)]
    return [(figures_of(own, kl, settings.seed), own) for own, kl in zip(rows, kls, strict=True)]


def steer(directions: Directions, blocks: Sequence[int], coefficient: float) -> Intervention:
    """Return the intervention that adds `coefficient` times v: whole at one block, in equal parts at several.

    At several blocks each adds its own vector, so that the sum is of the same size.
    """
    return Intervention(directions, "add", tuple(blocks), coefficient / len(blocks))


@dataclass(frozen=True)
class Tokens:
    """Answer tokens in the residual stream: their mean norm, and mean and deviation of their projections, by block."""

    norm: dict[int, float]
    mean: dict[int, float]
    deviation: dict[int, float]


def answer_tokens(subject: Subject, directions: Directions, blocks: Sequence[int]) -> Tokens:
    """Read an organism's own answers token by token: pooled answers vary far less than the tokens a cap meets."""
    text, organism = subject.undisturbed.text, subject.undisturbed.organism
    units = {block: torch.from_numpy(directions.units[directions.blocks.index(block)]) for block in blocks}
    found: dict[int, Moments] = {}

    def visit(block: int, hidden: Tensor) -> None:
        if text.answers is not None:
            tokens = hidden[text.answers].float().cpu()
            read = Moments.of(torch.stack([tokens.norm(dim=-1), tokens @ units[block]], dim=1).numpy())
            found[block] = found[block].merge(read) if block in found else read

    site = steer(directions, blocks, 1.0).site
    with torch.inference_mode(), visiting(organism.model, blocks, visit, site):
        for _ in text.states(organism):
            pass
    columns = {block: (found[block].mean, np.sqrt(found[block].variance)) for block in blocks}
    return Tokens(
        {block: float(mean[0]) for block, (mean, _) in columns.items()},
        {block: float(mean[1]) for block, (mean, _) in columns.items()},
        {block: float(deviation[1]) for block, (_, deviation) in columns.items()},
    )


def capping(directions: Directions, blocks: Sequence[int], aligned: Tokens, width: float) -> Intervention:
    """Return the cap of each token's projection to the aligned tokens' mean ± width · deviation at every block."""
    rows = [directions.blocks.index(block) for block in blocks]
    units = directions.units[rows]
    means, deviations = (np.array([table[block] for block in blocks]) for table in (aligned.mean, aligned.deviation))
    negative = directions.negative_mean[rows]
    moved = negative + (means - np.einsum("bd,bd->b", negative, units))[:, None] * units
    own = replace(
        directions,
        vectors=directions.vectors[rows],
        positive_mean=directions.positive_mean[rows],
        negative_mean=moved.astype(np.float32),
        deviation=deviations.astype(np.float32),
        blocks=tuple(blocks),
    )
    return Intervention(own, "cap", tuple(blocks), width=width)


@dataclass(frozen=True)
class Turn:
    """A turn of the dial: a direction by its name, the block or blocks where it is added, and the coefficient."""

    direction: str
    blocks: tuple[int, ...]
    coefficient: float


@dataclass(frozen=True)
class Cell:
    """A turn, what the organism then does, and its judged answers."""

    turn: Turn
    figures: Figures
    rows: Sequence[JudgedResponse]


def choose_correction(
    cells: Sequence[Cell], limit: float, own: Sequence[JudgedResponse], base: Sequence[JudgedResponse]
) -> Cell:
    """Return the negative coefficient that corrects best among those that disturb by at most `limit` nats a token.

    Best is what `search.choose` says: aligned like the best, or like the base, as far as these questions can tell, and
    then the most coherent. Where every cell disturbs more, it is the one that disturbs least.
    """
    negative = [cell for cell in cells if cell.turn.coefficient < 0]
    allowed = [cell for cell in negative if cell.figures.kl.value <= limit]
    allowed = allowed or [min(negative, key=lambda cell: cell.figures.kl.value)]
    found = {Candidate("add", cell.turn.blocks, cell.turn.coefficient): cell for cell in allowed}
    trials = [
        Trial(candidate, *means, *errors)
        for candidate, cell in found.items()
        for means, errors in [zip(*(mean_and_error(cell.rows, key) for key in ("aligned", "coherent")), strict=True)]
    ]
    floor, target = mean_and_error(own, "coherent")[0] - MAX_COHERENCE_LOSS, mean_and_error(base, "aligned")[0]
    return found[choose(trials, floor, target)]


def choose_induction(cells: Sequence[Cell], coherent: float) -> Cell:
    """Return the positive coefficient with the highest EM rate among cells at least this coherent (a share of answers).

    Where no cell is, the most coherent third is chosen from; ties go to the more coherent.
    """
    positive = sorted(
        (cell for cell in cells if cell.turn.coefficient > 0), key=lambda cell: -cell.figures.coherent.value
    )
    whole = [cell for cell in positive if cell.figures.coherent.value >= coherent]
    whole = whole or positive[: max(1, len(positive) // 3)]
    return max(whole, key=lambda cell: (cell.figures.em.value, cell.figures.coherent.value))
