"""What a direction was tried on: organisms that it was not made from, kept in the direction's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from emscope.errors import OutsideError
from emscope.outside import Record
from emscope.residual.directions import Directions

TRIED_ON = "tried_on"
REMEDY = "make it again"


@dataclass(frozen=True)
class TriedOrganism:
    """An organism's score along a direction that was not made from it.

    Attributes:
        organism: its name.
        misaligned: whether it is misaligned, by what it was made of.
        mean: mean score over questions, in within-class deviations.
    """

    organism: str
    misaligned: bool
    mean: float


@dataclass(frozen=True)
class Trial:
    """What a direction was tried on.

    Attributes:
        block: the block of the scores.
        auroc: chance that a question scores higher on a misaligned organism than on a harmless one.
        organisms: their scores.
    """

    block: int
    auroc: float
    organisms: tuple[TriedOrganism, ...]

    @property
    def harmless(self) -> list[TriedOrganism]:
        """The harmless ones: fine-tunes on good advice, and the base."""
        return [organism for organism in self.organisms if not organism.misaligned]

    @property
    def misaligned(self) -> list[TriedOrganism]:
        """The misaligned ones."""
        return [organism for organism in self.organisms if organism.misaligned]

    def like(self, mean: float) -> str:
        """Return which of these organisms a mean score is like, in words.

        The scores of organisms that a direction was not made from lie closer together than those of the two that it
        was made from, so the middle between these two tells nothing of a third.
        """
        highest, least = max(one.mean for one in self.harmless), min(one.mean for one in self.misaligned)
        if highest < least:
            kind = "misaligned" if mean >= (highest + least) / 2 else "harmless"
            return f"scores like the {kind} organisms that the direction was tried on"
        if mean > highest:
            return "scores above every harmless organism that the direction was tried on"
        if mean < least:
            return "scores below every misaligned organism that the direction was tried on"
        return "scores where harmless and misaligned organisms that the direction was tried on overlap"

    def as_high(self, mean: float) -> list[TriedOrganism]:
        """Return the harmless organisms that score as high as this."""
        return [organism for organism in self.harmless if organism.mean >= mean]


def with_trial(directions: Directions, block: int, auroc: float, organisms: Sequence[TriedOrganism]) -> Directions:
    """Return directions that carry what they were tried on, for whoever detects with their file."""
    told = []
    for organism in organisms:
        told.append({"organism": organism.organism, "misaligned": organism.misaligned, "mean": organism.mean})
    trial: dict[str, Any] = {"block": block, "auroc": auroc, "organisms": told}
    made = directions.construction
    return replace(directions, construction=replace(made, extra={**made.extra, TRIED_ON: trial}))


def trial_of(directions: Directions) -> Trial | None:
    """Return what directions were tried on, None where their file does not say.

    Raises:
        OutsideError: what it says is damaged.
    """
    if TRIED_ON not in directions.construction.extra:
        return None
    record = Record(directions.construction.extra, "the direction", remedy=REMEDY).record(TRIED_ON)
    organisms = []
    for value in record.items("organisms"):
        row = Record(value, record.where, remedy=REMEDY)
        organisms.append(TriedOrganism(row.text("organism"), row.flag("misaligned"), row.number("mean")))
    found = Trial(record.whole("block"), record.number("auroc"), tuple(organisms))
    if not found.harmless or not found.misaligned:
        raise OutsideError(record.where, "names no harmless or no misaligned organism", REMEDY)
    return found
