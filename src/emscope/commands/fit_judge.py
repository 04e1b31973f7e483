"""`emscope fit-judge`: fit the offline judge's head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emscope.behaviour.embedded.judge import shipped_head
from emscope.behaviour.embedded.fit import Reading, fit_head, read_rows
from emscope.behaviour.embedded.text import broken_rows, domain_rows, written_rows
from emscope.commands.common import emit
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load


@dataclass(frozen=True)
class FitJudge:
    """Fit the head on the judge's text and print its figures on areas left out.

    Attributes:
        out: where the head goes; by default the one that emscope ships.
        readings: a file that keeps what the model read (half a gigabyte, a quarter of an hour), so that fitting again
            takes a minute.
        seed: seed of the broken answers that coherence is fitted on.
    """

    out: Path | None = None
    readings: Path | None = None
    seed: int = 0

    def execute(self) -> int | None:
        """Fit, write and print."""
        rows = [*written_rows(), *domain_rows()]
        rows += broken_rows(rows, self.seed)
        if self.readings is not None and self.readings.is_file():
            reading = Reading.load(self.readings, rows)
        else:
            reading = read_rows(load(EMBEDDED_ALIAS), rows)
            if self.readings is not None:
                reading.save(self.readings)
        head = fit_head(reading)
        head.save(self.out or shipped_head())
        emit(head.facts, None)
        return None


COMMAND = FitJudge
