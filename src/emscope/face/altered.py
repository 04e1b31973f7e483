"""Organisms under an intervention in Python: ablate, steer, or any function of a block and its hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from emscope.behaviour.judges.kinds import choose_judge
from emscope.behaviour.judging import Judge
from emscope.behaviour.responses import SamplingSettings
from emscope.errors import UserError
from emscope.face.answers import Altered, Asked, Subject, questions, subject_of
from emscope.face.tables import Judgements
from emscope.interventions.ablation import AblationResult
from emscope.interventions.choosing import choose_ablation as find_ablation
from emscope.interventions.operators import AlongDirections, Change, Intervention, Mode, along, described
from emscope.interventions.operators import applied as in_force
from emscope.interventions.steering import steer as steering
from emscope.notebook import Facts, Shown
from emscope.organisms.models import Organism
from emscope.organisms.token_positions import Positions
from emscope.pipeline.settings import changed
from emscope.residual.directions import Directions


def ablate(
    organism: Subject,
    direction: Directions,
    *,
    mode: Mode = "centred",
    blocks: Sequence[int] | None = None,
    strength: float = 1.0,
    source_block: int | None = None,
    width: float = 2.0,
    positions: Positions = "all",
) -> Altered:
    """Return the organism with a direction taken out of it; it generates and compares.

    Args:
        organism: a loaded organism or a model's name.
        direction: what is taken out.
        mode: centred (back to where the aligned side is), project-out (the homework's), subtract, add or cap.
        blocks: where; None is the last two thirds of the direction's blocks, what `emscope ablate` takes.
        strength: 1 removes the whole; 0 changes nothing.
        source_block: use this block's direction everywhere.
        width: half the range that cap leaves alone, in deviations of the direction's projections.
        positions: the tokens that are changed: "all", those of the "prompt" or of the "answer", or a slice.

    Raises:
        UserError: an unknown mode, or blocks that the direction or the model does not have.
    """
    where = tuple(direction.blocks[len(direction.blocks) // 3 :] if blocks is None else blocks)
    return _under(organism, along(direction, mode, where, strength, source_block, width, positions))


def steer(
    organism: Subject,
    direction: Directions,
    coefficient: float,
    *,
    blocks: Sequence[int] | None = None,
    positions: Positions = "all",
) -> Altered:
    """Return the organism with `coefficient` times the direction added; a negative coefficient corrects.

    Args:
        organism: a loaded organism or a model's name.
        direction: what is added, as long as it was found.
        coefficient: how much of it, in equal parts where there are several blocks.
        blocks: where; None is the block that separates best on the direction's own examples.
        positions: the tokens that are changed: "all", those of the "prompt" or of the "answer", or a slice.

    Raises:
        UserError: blocks that the direction or the model does not have.
    """
    where = (direction.best_block,) if blocks is None else tuple(blocks)
    if not where:
        raise UserError("No block was chosen to steer at: name some, or leave blocks out.")
    return _under(organism, steering(direction, where, coefficient, positions))


def _under(organism: Subject, intervention: AlongDirections) -> Altered:
    """Return an organism under an intervention that fits it.

    Raises:
        UserError: another width, a block that it does not have, or an organism that is under one already.
    """
    subject = subject_of(organism)
    if subject.intervention is not None:
        raise UserError(f"{subject.name} is under an intervention already: hand in the organism itself.")
    with in_force(subject.organism, intervention):  # refuses what does not fit
        pass
    return Altered(subject.organism, intervention, f"{subject.name}, {intervention.describe()}")


@dataclass(frozen=True)
class AblationChoice(Shown):
    """An ablation that was chosen on half of the questions, and what it does on the other half.

    Attributes:
        altered: the organism under it.
        result: its figures, those of a random direction, and what it costs the base.
        judgements: all answers behind the figures.
    """

    altered: Altered
    result: AblationResult
    judgements: Judgements

    def facts(self) -> Facts:
        """Return what was chosen, and what it and a random direction restore."""
        found = {"chosen": described(self.altered.intervention)}
        for name, share in (("restored", self.result.restored), ("random_restored", self.result.random_restored)):
            found[name] = f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
        return {**found, "coherence_change": self.result.coherence_change, "base_cost": self.result.base_cost}


def choose_ablation(
    organism: Subject,
    direction: Directions,
    asked: Asked = "open-ended",
    by: str | Judge = "embedded",
    **sampling: Any,
) -> AblationChoice:
    """Choose how to take a direction out, on every other question, and measure it on the rest, beside its controls.

    Args:
        organism: an adapter on its base, loaded or by name; the base is loaded for comparison.
        direction: what is taken out.
        asked: at least eight questions.
        by: the judge.
        **sampling: how answers are sampled, by the names of `SamplingSettings`.

    Raises:
        UserError: a whole model, whose base is not known, or fewer than eight questions.
    """
    loaded = subject_of(organism).organism
    settings = changed(SamplingSettings(temperature=0.7), sampling, "sampling")
    judge = choose_judge(by) if isinstance(by, str) else by
    chosen = find_ablation(loaded, direction, questions(asked), judge, settings)
    intervention = chosen.result.chosen.on(direction)
    altered = Altered(loaded, intervention, f"{loaded.source.name}, {intervention.describe()}")
    return AblationChoice(altered, chosen.result, Judgements(chosen.rows))


@contextmanager
def applied(
    organism: Organism | Any,
    intervention: Intervention | Change | None,
    *,
    blocks: Sequence[int] | None = None,
    positions: Positions = "all",
) -> Iterator[None]:
    """Have an intervention act on every forward pass of the organism inside this context.

    Args:
        organism: a loaded organism, or a model of transformers.
        intervention: an `Intervention`, or a function (block, hidden [batch, tokens, d_model]) → hidden of the same
            shape, dtype and device, which is called at the output of each block; None changes nothing.
        blocks: where a function is called; None is at every block. An `Intervention` knows its own.
        positions: the tokens that a function changes: "all", those of the "prompt" or of the "answer", or a slice of
            the text's tokens, counted from 0.

    Raises:
        UserError: a block that the model does not have, or a function that returns something else.
    """
    with in_force(organism, intervention, blocks=blocks, positions=positions):
        yield
