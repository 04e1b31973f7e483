"""`emscope sweep layers`: every block, contrast, pooling and method on a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.opening import open_run
from emscope.pipeline.experiments.sweep import SweepSettings, run_sweep
from emscope.report.sections import experiment_file
from emscope.report.wording import number, percent


@dataclass(frozen=True)
class Sweep:
    """Measure where misalignment can be read: every block, contrast, pooling and method, on held-out questions.

    Attributes:
        kind: what is swept: the layers.
        run: the folder of a finished run.
        settings: what is swept, and how.
    """

    stopped: ClassVar[str] = GOES_ON

    kind: Annotated[Literal["layers"], tyro.conf.Positional]
    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    settings: SweepSettings = field(default_factory=SweepSettings)

    def execute(self) -> int | None:
        """Sweep and print the best block of each construction."""
        run_sweep(open_run(self.run), self.settings)
        found = read_json(experiment_file(self.run, "sweep"))
        terminal.write(_table(found))
        for name, reason in found["skipped"].items():
            terminal.write(f"left out: {name}: {reason}\n")
        terminal.write(f"\n{self.run / 'report.html'}\n")
        return None


def _table(found: Mapping[str, Any]) -> str:
    """Return a line a construction at its best block, with held-out figures."""
    width = max(len(name) for name in found["constructions"])
    header = f"{'':<{width}}  block  AUROC (95 %)             accuracy (95 %)          stability  null\n"
    lines = [f"{name:<{width}}  {_line(item['best'])}\n" for name, item in found["constructions"].items()]
    return header + "".join(lines)


def _line(best: Mapping[str, Any]) -> str:
    def bounded(name: str, scale: float, digits: int) -> str:
        value, low, high = (
            "  –" if best[name][key] is None else f"{scale * best[name][key]:.{digits}f}"
            for key in ("value", "low", "high")
        )
        return f"{value} ({low} – {high})"

    return (
        f"{best['block']:>5}  {bounded('auroc', 1, 3):<24} {bounded('accuracy', 100, 0):<24} "
        f"{number(best['split_half_cosine'], '.2f'):>9}  {percent(best['null_accuracy'])}"
    )


COMMAND = Sweep
