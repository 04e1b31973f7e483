"""Organisms under an intervention in Python: ablate, steer, or any function of a block and its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch import Tensor

from emscope import parts
from emscope.errors import UserError
from emscope.face.loading import load
from emscope.interventions.operators import Intervention, Mode
from emscope.interventions.operators import applied as in_force
from emscope.interventions.positions import Positions, at_positions
from emscope.interventions.steering import steer as steering
from emscope.notebook import Facts, Shown
from emscope.organisms.blocks import check_blocks, find_blocks, visiting
from emscope.organisms.models import Organism
from emscope.organisms.token_positions import asked_for
from emscope.residual.directions import Directions

if TYPE_CHECKING:
    from emscope.behaviour.judging import Judge
    from emscope.face.answers import Asked, Comparison
    from emscope.face.tables import Answers

Change = Callable[[int, Tensor], Tensor]
"""What is done at a block: (block, hidden [batch, tokens, d_model]) → hidden of the same shape."""


@dataclass(frozen=True)
class Altered(Shown):
    """An organism with an intervention that is in force whenever it is asked or read.

    Attributes:
        organism: the organism, itself unchanged.
        intervention: what is done; None leaves it as it is.
        name: what it is called in tables.
        blocks: where a function acts; None is every block.
        positions: at which tokens it acts: all, those of the prompt, those of the answer, or a slice.
    """

    organism: Organism
    intervention: Intervention | Change | None
    name: str
    blocks: tuple[int, ...] | None = None
    positions: Positions = "all"

    def facts(self) -> Facts:
        """Return the organism, what is done to it and where."""
        name, what = self.organism.source.name, described(self.intervention)
        return {"organism": name, "intervention": what, "positions": _in_words(self.positions)}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Have the intervention act on every forward pass inside this context."""
        with applied(self.organism, self.intervention, blocks=self.blocks, positions=self.positions):
            yield

    def generate(self, asked: Asked = "everyday-general", **sampling: Any) -> Answers:
        """Return its answers; see `emscope.generate`."""
        from emscope.face.answers import generate

        return generate(self, asked, **sampling)

    def compare(self, asked: Asked = "open-ended", by: str | Judge = "embedded", **sampling: Any) -> Comparison:
        """Return how its answers differ from those of the organism without the intervention, judged and paired."""
        from emscope.face.answers import compare, generate, judge

        changed = judge(generate(self, asked, **sampling), by)
        return compare(changed, judge(generate(self.organism, asked, **sampling), by))


Subject = Organism | Altered | str | Path
"""Who is asked or read: an organism, one under an intervention, or a model's name."""


def subject_of(organism: Subject) -> Altered:
    """Return who is asked or read, loaded, as an organism under an intervention, or under none."""
    if isinstance(organism, Altered):
        return organism
    loaded = organism if isinstance(organism, Organism) else load(organism)
    return Altered(loaded, None, loaded.source.name)


def described(intervention: Intervention | Change | None) -> str:
    """Return an intervention in a few words."""
    if intervention is None:
        return "none"
    if isinstance(intervention, Intervention):
        return intervention.describe()
    return str(getattr(intervention, "__name__", type(intervention).__name__))


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
        positions: at which tokens: all, prompt, answer, or a slice of each text.

    Raises:
        UserError: an unknown mode, or blocks that the direction or the model does not have.
    """
    where = tuple(direction.blocks[len(direction.blocks) // 3 :] if blocks is None else blocks)
    return _under(organism, Intervention(direction, mode, where, strength, source_block, width), positions)


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
        positions: at which tokens: all, prompt, answer, or a slice of each text.

    Raises:
        UserError: blocks that the direction or the model does not have.
    """
    where = (direction.best_block,) if blocks is None else tuple(blocks)
    if not where:
        raise UserError("No block was chosen to steer at: name some, or leave blocks out.")
    return _under(organism, steering(direction, where, coefficient), positions)


def _under(organism: Subject, intervention: Intervention, positions: Positions) -> Altered:
    """Return an organism under an intervention that fits it.

    Raises:
        UserError: another width, a block that it does not have, or an organism that is under one already.
    """
    subject = subject_of(organism)
    if subject.intervention is not None:
        raise UserError(f"{subject.name} is under an intervention already: hand in the organism itself.")
    with in_force(subject.organism, intervention, positions):  # refuses what does not fit
        pass
    name = f"{subject.name}, {intervention.describe()}"
    if positions != "all":
        name += f", {_in_words(positions)}"
    return Altered(subject.organism, intervention, name, positions=positions)


def _in_words(positions: Positions) -> str:
    """Return positions in words, a slice as `positions 3:9`."""
    if isinstance(positions, str):
        return f"{positions} tokens"
    ends = ["" if end is None else str(end) for end in (positions.start, positions.stop)]
    return f"tokens {':'.join(ends)}" + (f":{positions.step}" if positions.step else "")


@contextmanager
def applied(
    organism: Organism,
    intervention: Intervention | Change | None,
    *,
    blocks: Sequence[int] | None = None,
    positions: Positions = "all",
) -> Iterator[None]:
    """Have an intervention act on every forward pass of the organism inside this context.

    Args:
        organism: a loaded organism.
        intervention: an `Intervention`, or a function (block, hidden [batch, tokens, d_model]) → hidden of the same
            shape, which is called at the output of each block; None changes nothing.
        blocks: where a function is called; None is at every block. An `Intervention` knows its own.
        positions: at which tokens its result counts: all, prompt, answer (from the first token that was sampled or
            written), or a slice of each text, from 0, the chat template's tokens included.

    Raises:
        UserError: a block that the model does not have, or a function that returns something else.
    """
    if intervention is None or isinstance(intervention, Intervention):
        if blocks is not None and intervention is not None:
            raise UserError("This intervention knows its blocks: leave blocks out, or make it with others.")
        with in_force(organism, intervention, positions):
            yield
        return
    n_blocks = len(find_blocks(organism.model))
    where = check_blocks(range(n_blocks) if blocks is None else blocks, n_blocks)
    visit = at_positions(_checked(intervention), positions)
    with (
        parts.under(lambda: [uuid4().hex]),  # what a function does cannot be told: nothing kept under it is used again
        asked_for(organism.model) if positions != "all" else nullcontext(),
        visiting(organism.model, where, visit),
    ):
        yield


def _checked(change: Change) -> Change:
    """Return a function that refuses what is not hidden states of the shape that came in."""

    def visit(block: int, hidden: Tensor) -> Tensor:
        changed = change(block, hidden)
        if not isinstance(changed, Tensor) or changed.shape != hidden.shape:
            got = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(
                f"The intervention {described(change)!r} returned {got} at block {block}: return hidden states of the "
                f"shape that came in, {tuple(hidden.shape)}."
            )
        return changed.to(hidden.dtype)

    return visit
