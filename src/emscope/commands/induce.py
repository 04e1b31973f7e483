"""`emscope induce`: one trained vector against a whole fine-tune."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.induce import InduceSettings, run_induce
from emscope.pipeline.experiments.opening import open_run
from emscope.report.sections import experiment_file
from emscope.report.wording import percent, ranged


@dataclass(frozen=True)
class Induce:
    """Train one vector on a run's careless rows and add it to the base: is one vector enough to misalign it?

    Attributes:
        run: the run's folder.
        settings: block, rows, training, coefficients and numbers of questions.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    settings: InduceSettings = field(default_factory=InduceSettings)

    def execute(self) -> int | None:
        """Do the experiment and print what the vector does, on test questions."""
        run_induce(open_run(self.run), self.settings)
        found = read_json(experiment_file(self.run, "induce"))
        terminal.write("".join(f"{line}\n" for line in _lines(found)) + f"\n{self.run / 'report.html'}\n")
        return None


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"One vector at block {found['block']}, on test questions\n"
    yield f"{'organism':<12}{'plus':<46}{'nats/token':>10}{'coherent':>10}{'EM rate':>18}{'restored':>19}"
    for name, own in found["unsteered"].items():
        yield _line(name, "nothing", own)
    for row in found["test"]:
        yield _line(row["organism"], f"{row['coefficient']:+.2f} {row['direction']}", row)
    yield ""
    for name, sides in found["by_set"].items():
        yield f"{name:<20}EM rate {ranged(sides['base']['em']):>18} -> {ranged(sides['base + vector']['em']):>18}"


def _line(organism: str, what: str, row: dict[str, Any]) -> str:
    restored = ranged(row["restored"]) if "restored" in row else ""
    figures = f"{row['kl']['value']:>10.2f}{percent(row['coherent']['value']):>10}{ranged(row['em']):>18}"
    return f"{organism:<12}{what:<46}{figures}{restored:>19}"


COMMAND = Induce
