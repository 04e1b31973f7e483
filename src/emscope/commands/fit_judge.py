"""`emscope fit-judge`: fit the offline judge's head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from emscope.behaviour.embedded.fit import fit_head
from emscope.behaviour.embedded.readings import read_kept
from emscope.behaviour.embedded.text import judge_rows
from emscope.commands.common import GOES_ON, kept_parts
from emscope.commands.outcome import Outcome, readable
from emscope.commands.outputs import TENSORS, check_out
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load


@dataclass(frozen=True)
class FitJudge:
    """Fit the head on the judge's text and print its figures on areas left out.

    Attributes:
        out: the .safetensors file that the head goes to; the one that emscope ships stays as it is.
        readings: a file that keeps what the model read (half a gigabyte, five to thirty minutes), so that fitting
            again reads only new text.
        seed: seed of the broken answers that coherence is fitted on.
    """

    stopped: ClassVar[str] = GOES_ON

    out: Path
    readings: Path | None = None
    seed: int = 0

    def execute(self) -> Outcome:
        """Fit, write and print."""
        check_out(self.out, TENSORS, [self.readings])
        if self.readings is not None:
            check_out(self.readings, [self.readings.suffix])
        with kept_parts(self.out, [EMBEDDED_ALIAS]):
            readings = read_kept(lambda: load(EMBEDDED_ALIAS), judge_rows(self.seed), self.readings)
            head = fit_head(readings)
            head.save(self.out)
        kept = [] if self.readings is None else [self.readings]
        return Outcome(readable(head.facts), head.facts, [self.out, *kept])


COMMAND = FitJudge
