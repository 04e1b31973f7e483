"""The report's section for each experiment: a module of that name with `section(found)`, found from its JSON."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import cast

from emscope.outside import read_json
from emscope.report.section import Section

logger = logging.getLogger(__name__)

EXPERIMENTS = ("sweep", "steer", "induce", "transfer", "dynamics", "adapters", "features", "monitor")


def experiment_file(folder: Path, name: str) -> Path:
    """Return where a run keeps the figures of an experiment."""
    return folder / "experiments" / f"{name}.json"


def sections_of(folder: Path) -> list[Section]:
    """Return the sections of the experiments that a run has done, in the order of the page.

    Figures that a section cannot be made from, such as those of another version, become a section that says so: one
    experiment must not cost the page of all others.
    """
    return [_section(folder, name) for name in EXPERIMENTS if experiment_file(folder, name).is_file()]


def _section(folder: Path, name: str) -> Section:
    file = experiment_file(folder, name)
    try:
        show = importlib.import_module(f"emscope.report.sections.{name}").section
        return cast("Section", show(read_json(file)))
    except Exception as error:
        told = logger.isEnabledFor(logging.DEBUG)
        logger.warning("the report's section on %s could not be made from %s (%s)", name, file, error, exc_info=told)
        what = f"This section could not be made from the figures in {file.name} ({type(error).__name__}: {error})."
        again = f"If they come from another version of emscope, run `emscope {name}` on this run again."
        return Section(name, name.capitalize(), [f"{what} {again}"])
