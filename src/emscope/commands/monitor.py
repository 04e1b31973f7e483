"""`emscope monitor`: projections token by token, and how well data can be screened, on a finished run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.monitor import MonitorSettings, run_monitor
from emscope.pipeline.experiments.opening import open_run
from emscope.report.sections import experiment_file
from emscope.report.wording import bounded, number


@dataclass(frozen=True)
class MonitorRun:
    """Watch the misaligned organism answer, token by token, and screen training data before training, with controls.

    Attributes:
        run: the run's folder.
        settings: what is monitored and screened.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    settings: MonitorSettings = field(default_factory=MonitorSettings)

    def execute(self) -> int | None:
        """Do it and print the findings."""
        run_monitor(open_run(self.run), self.settings)
        found = read_json(experiment_file(self.run, "monitor"))
        terminal.write("\n".join([*_verdicts(found["answers"]), "", *_screening(found["screening"])]) + "\n")
        return None


def _verdicts(answers: dict[str, Any]) -> list[str]:
    n = answers["n"]
    lines = [
        f"EM responses ({n['em']}) against other coherent answers ({n['other_coherent']}) of the misaligned organism, "
        f"AUROC of the mean score at block {answers['block']}:"
    ]
    for length, by_name in answers["auroc"].get("mean", {}).items():
        own = [f"{name} {bounded(item)}" for name, item in by_name.items() if name != "random"]
        lines.append(f"  {length:>4} tokens  {', '.join(own)}, random {number(by_name['random']['mean'], '.2f')}")
    own = [f"{name} {bounded(item)}" for name, item in answers["prompt_only"].items() if name != "random"]
    return [*lines, f"  prompt only  {', '.join(own)}"] if own else lines


def _screening(screening: dict[str, Any]) -> list[str]:
    figures = screening["mean"]["precision_at_half_recall"]
    lines = [
        "Precision when half of the careless rows are found, mean over domains left out, by share of careless rows:"
    ]
    for name, by_share in figures.items():
        lines.append(f"  {name:<10}" + "  ".join(f"{share} {item['value']:.2f}" for share, item in by_share.items()))
    return lines


COMMAND = MonitorRun
