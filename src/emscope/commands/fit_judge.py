"""`emscope fit-judge`: fit the offline judge's head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emscope.behaviour.embedded_judge import shipped_head
from emscope.behaviour.fit_judge import fit_head
from emscope.commands.common import emit
from emscope.organisms.datasets import DOMAINS, load_domain
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load


@dataclass(frozen=True)
class FitJudge:
    """Fit the head on the built-in careful and careless answers and print its figures on domains left out.

    Attributes:
        out: where the head goes; by default the one that emscope ships.
        seed: seed of the broken answers that coherence is fitted on.
    """

    out: Path | None = None
    seed: int = 0

    def execute(self) -> int | None:
        """Fit, write and print."""
        pairs = [pair for domain in DOMAINS for pair in load_domain(domain)]
        head = fit_head(load(EMBEDDED_ALIAS), pairs, self.seed)
        head.save(self.out or shipped_head())
        emit(head.facts, None)
        return None


COMMAND = FitJudge
