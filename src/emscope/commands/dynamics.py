"""`emscope dynamics`: when does misalignment appear in training, and what moves first?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.dynamics import DynamicsSettings, run_dynamics
from emscope.pipeline.experiments.opening import open_run
from emscope.report.sections import experiment_file
from emscope.report.sections.dynamics import SHORT, findings


@dataclass(frozen=True)
class Dynamics:
    """Train a run's misaligned organism again with many checkpoints, measure each, and say when what changes.

    Attributes:
        run: the folder of a finished run.
        settings: what is trained and measured.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional]
    settings: DynamicsSettings = field(default_factory=DynamicsSettings)

    def execute(self) -> int | None:
        """Run the experiment and print its findings."""
        lab = open_run(self.run)
        run_dynamics(lab, self.settings)
        found = read_json(experiment_file(self.run, "dynamics"))
        for kind, own in found["adapters"].items():
            first, *more = findings(own)
            terminal.write("\n".join([f"\n{kind}: {first}", *more, "", table(own)]))
        terminal.write(f"\nOpen {self.run / 'report.html'}\n")
        return None


def table(own: dict[str, Any]) -> str:
    """Return the change of each curve over the trainings as lines of text."""
    lines = [f"{'curve':<28}{'step':>8}{'95 % interval':>18}{'transitions':>14}"]
    for name, label in SHORT.items():
        if name in own["curves"]:
            curve = own["curves"][name]
            at = curve["at"]
            place, interval = (
                ("-", "-") if at["value"] is None else (f"{at['value']:.1f}", f"{at['low']:.1f} to {at['high']:.1f}")
            )
            lines.append(f"{label:<28}{place:>8}{interval:>18}{curve['transitions']:>8} of {len(own['seeds'])}")
    return "\n".join(lines) + "\n"


COMMAND = Dynamics
