"""Models as tasks name them: plain settings that travel, from which whoever carries out a task loads the model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emscope.organisms.loading import LoadSettings

if TYPE_CHECKING:
    from emscope.organisms.models import Organism

ROOM = 0.5
"""Models are kept while one more takes no more than this share of the memory that is free."""


@dataclass(frozen=True)
class OrganismNeed:
    """A loaded model that a task needs.

    Attributes:
        name: what it is loaded by.
        load: base, device and dtype.
    """

    name: str
    load: LoadSettings = field(default_factory=LoadSettings)

    def make(self) -> Organism:
        """Load it."""
        return self.load.load(self.name)

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say whether one more model would take more than its share of the memory that is free."""
        from emscope.organisms.device import free_bytes
        from emscope.organisms.memory import weight_bytes
        from emscope.organisms.models import Organism

        models = [thing for thing in others if isinstance(thing, Organism)]
        free = free_bytes(self.load.placement.device)
        return free is not None and max(map(weight_bytes, models), default=0) > ROOM * free
