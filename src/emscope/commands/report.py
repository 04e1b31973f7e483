"""`emscope report`: a run's page, written again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from emscope.errors import UserError
from emscope.pipeline.config import load_config
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder
from emscope.report.page import write_report


@dataclass(frozen=True)
class Report:
    """Write report.html of a finished run again, for example after an update of emscope.

    Attributes:
        run: the run's folder.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")

    def execute(self) -> int | None:
        """Write the page."""
        if not (self.run / "summary.json").is_file():
            raise UserError(f"{self.run} holds no finished run: `emscope run --out {self.run}` makes one.")
        config = load_config(self.run / "config.yaml")
        write_report(Lab(config, RunFolder(self.run, config)).products())
        sys.stdout.write(f"{self.run / 'report.html'}\n")
        return None


COMMAND = Report
