"""`emscope report`: a run's page, written again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from emscope.commands.common import NOTHING_KEPT
from emscope.commands.outcome import Outcome
from emscope.experiments.run_page import report_stage
from emscope.experiments.shape import open_run


@dataclass(frozen=True)
class Report:
    """Write report.html of a finished run again, for example after an update of emscope.

    Attributes:
        run: the run's folder.
    """

    stopped: ClassVar[str] = NOTHING_KEPT

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")

    def execute(self) -> Outcome:
        """Write the page."""
        report_stage(open_run(self.run), again=True)
        page = self.run / "report.html"
        return Outcome(result={"page": str(page)}, files=[page])


COMMAND = Report
