"""What every experiment on a run begins and ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emscope.errors import UserError
from emscope.files import write_json
from emscope.pipeline.config import load_config
from emscope.pipeline.lab import Lab
from emscope.pipeline.reporting import report_stage
from emscope.pipeline.stages import RunFolder
from emscope.report.sections import experiment_file

FIGURES = {"adapters": 2, "dynamics": 2}
"""By experiment, raised when figures are made otherwise of the same files, so that old ones are made again."""

LATER = ("organisms", "ask", "organism")
"""Settings that experiments did not always have: empty, they leave what was made before as it is."""


def open_run(folder: Path) -> Lab:
    """Return the lab of a finished run.

    Raises:
        UserError: there is no finished run in the folder.
    """
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder} holds no finished run: `emscope run --out {folder}` makes one.")
    config = load_config(folder / "config.yaml")
    return Lab(config, RunFolder(folder, config))


def experiment_stage(
    lab: Lab,
    name: str,
    settings: Any,
    inputs: Sequence[Path],
    find: Callable[[], dict[str, Any]],
    others: Sequence[Path] = (),
) -> None:
    """Do an experiment unless it is up to date: `find` returns its figures; `others` are further files it writes.

    `settings` is the experiment's dataclass of settings; how the run splits its questions counts with them. The run's
    report is written again with the experiment's section.
    """
    out = experiment_file(lab.folder.folder, name)
    parts = {"train": lab.train_questions, "dev": lab.dev_questions, "test": lab.test_questions}
    split = {part: [question.id for question in questions] for part, questions in parts.items()}
    asked = {key: value for key, value in asdict(settings).items() if key not in LATER or value}
    whole: dict[str, Any] = {"experiment": asked, "questions": split}
    if name in FIGURES:
        whole["figures"] = FIGURES[name]
    lab.folder.stage(name, whole, inputs, [out, *others], lambda: write_json(out, find()))
    report_stage(lab)
