"""`emscope steer`: the steering dial on a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.opening import open_run
from emscope.pipeline.experiments.steer import SteerSettings, run_steer
from emscope.report.figures_steer import place
from emscope.report.sections import experiment_file
from emscope.report.wording import number, percent, ranged


@dataclass(frozen=True)
class Steer:
    """Add and subtract directions at many strengths, and weigh what that does against how much it disturbs the model.

    Attributes:
        run: the run's folder.
        settings: blocks, coefficients and numbers of questions.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    settings: SteerSettings = field(default_factory=SteerSettings)

    def execute(self) -> int | None:
        """Do the experiment and print what was chosen, on test questions."""
        run_steer(open_run(self.run), self.settings)
        found = read_json(experiment_file(self.run, "steer"))
        terminal.write("".join(f"{line}\n" for line in _lines(found)) + f"\n{self.run / 'report.html'}\n")
        return None


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"Steering by multiples of {found['direction']} (v) and others, on test questions\n"
    head = f"{'organism':<11}{'steered by':<62}{'nats/token':>10}"
    yield f"{head}{'aligned':>9}{'coherent':>10}{'EM rate':>18}{'restored':>19}"
    for name, own in found["unsteered"].items():
        yield _line(name, "nothing", own)
    for row in found["test"]:
        what = f"{row['coefficient']:+.2f} {row['direction']} at {place(row['blocks'])}"
        yield _line(row["organism"], what, row)
    yield ""
    for name, own in found["fine_tune_kl"].items():
        yield f"the fine-tune's own disturbance, on answers of {name}: {own['value']:.2f} nats a token"


def _line(organism: str, what: str, row: dict[str, Any]) -> str:
    figures = (
        f"{row['kl']['value']:>10.2f}{number(row['aligned']['value'], '.0f'):>9}{percent(row['coherent']['value']):>10}"
    )
    restored = ranged(row["restored"]) if "restored" in row else ""
    return f"{organism:<11}{what:<62}{figures}{ranged(row['em']):>18}{restored:>19}"


COMMAND = Steer
