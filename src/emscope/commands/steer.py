"""`emscope steer`: the steering dial on a finished run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from emscope.files import read_json
from emscope.pipeline.experiments.opening import open_run
from emscope.pipeline.experiments.steer import SteerSettings, run_steer
from emscope.report.sections import experiment_file


@dataclass(frozen=True)
class Steer:
    """Add and subtract directions at many strengths, and weigh what it does against how much it disturbs the model.

    Attributes:
        run: the run's folder.
        settings: blocks, coefficients and numbers of questions.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    settings: SteerSettings = field(default_factory=SteerSettings)

    def execute(self) -> int | None:
        """Do the experiment and print what was chosen, on test questions."""
        run_steer(open_run(self.run), self.settings)
        found = read_json(experiment_file(self.run, "steer"))
        console = Console(highlight=False)
        console.print(_table(found))
        for name, own in found["fine_tune_kl"].items():
            console.print(f"the fine-tune's own disturbance on answers of {name}: {own['value']:.2f} nats a token")
        console.print(f"{self.run / 'report.html'}")
        return None


def _table(found: dict[str, Any]) -> Table:
    table = Table(title="steering, on test questions", title_justify="left", box=None)
    for name in (
        "organism",
        "direction",
        "block",
        "coefficient",
        "nats/token",
        "aligned",
        "coherent",
        "EM",
        "restored",
    ):
        table.add_column(name, justify="left" if name in ("organism", "direction") else "right")
    for name, own in found["unsteered"].items():
        table.add_row(name, "none", "", "", "", *_scores(own), "")
    for row in found["test"]:
        restored = _percent(row["restored"]) if "restored" in row else ""
        where = (str(row["block"]), f"{row['coefficient']:+.2f}", f"{row['kl']['value']:.2f}")
        table.add_row(row["organism"], row["direction"], *where, *_scores(row), restored)
    return table


def _scores(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['aligned']['value']:.0f}", _percent(row["coherent"]), _percent(row["em"])


def _percent(share: dict[str, Any]) -> str:
    if share["value"] is None or share["low"] is None:
        return "–"
    return f"{100 * share['value']:.0f} % ({100 * share['low']:.0f} – {100 * share['high']:.0f})"


COMMAND = Steer
