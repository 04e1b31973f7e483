"""The report's section for each experiment: a module of that name with `section(found)`, found from its JSON."""

from __future__ import annotations

import importlib
from pathlib import Path

from emscope.files import read_json
from emscope.report.section import Section

EXPERIMENTS = ("sweep", "steer", "transfer", "dynamics", "adapters", "features", "monitor")


def experiment_file(folder: Path, name: str) -> Path:
    """Return where a run keeps the figures of an experiment."""
    return folder / "experiments" / f"{name}.json"


def sections_of(folder: Path) -> list[Section]:
    """Return the sections of the experiments that a run has done, in the order of the page."""
    done = [name for name in EXPERIMENTS if experiment_file(folder, name).is_file()]
    return [
        importlib.import_module(f"emscope.report.sections.{name}").section(read_json(experiment_file(folder, name)))
        for name in done
    ]
