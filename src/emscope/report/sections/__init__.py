"""The report's section for each experiment: a module of that name with `section(found)`, found from its JSON."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from emscope.files import read_json
from emscope.report.section import Section

EXPERIMENTS = ("sweep", "steer", "induce", "transfer", "dynamics", "adapters", "features", "monitor")


def experiment_file(folder: Path, name: str) -> Path:
    """Return where a run keeps the figures of an experiment."""
    return folder / "experiments" / f"{name}.json"


def sections_of(folder: Path) -> list[Section]:
    """Return the sections of the experiments that a run has done, in the order of the page.

    Figures of another version of emscope, which lack what the page shows, become a section that says so.
    """
    return [_section(folder, name) for name in EXPERIMENTS if experiment_file(folder, name).is_file()]


def _section(folder: Path, name: str) -> Section:
    show = importlib.import_module(f"emscope.report.sections.{name}").section
    try:
        return cast("Section", show(read_json(experiment_file(folder, name))))
    except (KeyError, TypeError, IndexError) as error:
        what = f"The figures of this experiment come from another version of emscope (they lack {error})"
        return Section(name, name.capitalize(), [f"{what}: run `emscope {name}` on this run again."])
