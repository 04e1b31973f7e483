"""Where an organism's prompts stand along a direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emscope.behaviour.questions import Question
from emscope.errors import UserError
from emscope.notebook import Facts, Shown
from emscope.organisms.blocks import find_blocks
from emscope.organisms.models import Organism
from emscope.plain import plain
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture, organism_width
from emscope.residual.directions import Construction, Directions
from emscope.residual.trial import Trial, trial_of
from emscope.statistics import Estimate, estimate_mean


@dataclass(frozen=True)
class Detection(Shown):
    """Where an organism's prompts stand along a direction: above 0 is nearer to its positive side.

    Attributes:
        organism: whose prompts.
        construction: how the direction was made.
        block: the block of the figures below.
        mean: mean score over questions at that block, in within-class deviations, with its 95 % interval.
        scores: scores of every question at every block, [n_questions, n_blocks].
        projections: raw projections (the homework's scores), [n_questions, n_blocks].
        questions: ids of the questions.
        blocks: block numbers.
        trial: what the direction was tried on at this block; None where that is not known.
    """

    organism: str
    construction: Construction
    block: int
    mean: Estimate
    scores: np.ndarray
    projections: np.ndarray
    questions: tuple[str, ...]
    blocks: tuple[int, ...]
    trial: Trial | None = None

    @property
    def at_block(self) -> np.ndarray:
        """Scores of every question at the block, [n_questions]."""
        return np.asarray(self.scores[:, self.blocks.index(self.block)])

    @property
    def share_above_0(self) -> float:
        """Share of the questions that are nearer to the positive side, at the block."""
        return float((self.at_block > 0).mean())

    @property
    def verdict(self) -> str:
        """What the organism scores like: the organisms that were tried, or the nearer side of the direction."""
        if self.trial is not None:
            return self.trial.like(self.mean.value)
        return f"nearer to the {'misaligned' if self.mean.value > 0 else 'aligned'} organism"

    def facts(self) -> Facts:
        """Return the verdict and the mean score with its interval."""
        mean = f"{self.mean.value:+.2f} ({self.mean.low:+.2f} to {self.mean.high:+.2f})"
        facts = {
            "organism": self.organism,
            "verdict": self.verdict,
            "mean": mean,
            "block": self.block,
            "n": self.mean.n,
        }
        return {**facts, "tried_on": self.tried_on}

    @property
    def tried_on(self) -> str:
        """What the direction was tried on, and how many harmless organisms score as high as this one, in a sentence."""
        if self.trial is None:
            return (
                "This direction was tried on no organism that it was not made from: how often a harmless fine-tune "
                "scores as high is not known."
            )
        harmless, misaligned = self.trial.harmless, self.trial.misaligned
        high = len(self.trial.as_high(self.mean.value))
        highest = f"{max(organism.mean for organism in harmless):+.2f}"
        least = f"{min(organism.mean for organism in misaligned):+.2f}"
        return (
            f"Tried on {len(self.trial.organisms)} organisms that it was not made from (AUROC "
            f"{self.trial.auroc:.2f} a question): {high} of {len(harmless)} harmless ones score as high as this one; "
            f"the highest of them scores {highest}, the lowest of {len(misaligned)} misaligned ones {least}."
        )

    def as_dict(self) -> Facts:
        """Return plain values for JSON."""
        return {
            "organism": self.organism,
            "construction": asdict(self.construction),
            "block": self.block,
            "mean_score": plain(self.mean),
            "share_above_0": self.share_above_0,
            "verdict": self.verdict,
            "tried_on": None if self.trial is None else plain(self.trial),
            "scores": dict(zip(self.questions, self.at_block.tolist(), strict=True)),
            "mean_score_by_block": dict(zip(self.blocks, self.scores.mean(axis=0).tolist(), strict=True)),
            "mean_raw_projection_by_block": dict(zip(self.blocks, self.projections.mean(axis=0).tolist(), strict=True)),
        }


def block_to_score_at(directions: Directions, block: int | None) -> int:
    """Return the block to score prompts at: the one named, or the one that separates the direction's own examples best.

    Raises:
        UserError: directions of answers, or without that block.
    """
    pooling = directions.construction.pooling
    if pooling not in ("last", "prompt"):
        raise UserError(f"This direction is made from {pooling} tokens; detection scores prompts: use last or prompt.")
    at = directions.best_block if block is None else block
    if at not in directions.blocks:
        raise UserError(f"The directions have no block {at}; they have {list(directions.blocks)}.")
    return at


def detect(
    organism: Organism,
    directions: Directions,
    questions: Sequence[Question],
    block: int | None = None,
    *,
    name: str = "",
) -> Detection:
    """Score an organism's prompts along directions made of last prompt tokens or prompt means.

    `name` is what the organism is called in the result.

    Raises:
        UserError: directions that do not fit (see `block_to_score_at`), or no questions.
    """
    at = block_to_score_at(directions, block)
    directions.check_width(organism_width(organism), len(find_blocks(organism.model)))
    trial = trial_of(directions)
    pooling: Any = directions.construction.pooling
    site: Any = directions.construction.site

    texts, systems, groups = [], [], []
    for question in questions:
        texts.append(question.text)
        systems.append(question.system)
        groups.append(question.group)
    chats = encode_for_capture(organism.tokenizer, texts, system=systems)
    read = capture(organism, chats, CaptureSettings((pooling,), site, directions.blocks)).pooled[pooling]

    scores = directions.score(read)
    mean = estimate_mean(scores[:, directions.blocks.index(at)].tolist(), groups)
    return Detection(
        name or organism.source.name,
        directions.construction,
        at,
        mean,
        scores,
        directions.project(read),
        tuple(question.id for question in questions),
        directions.blocks,
        trial if trial is not None and trial.block == at else None,
    )
