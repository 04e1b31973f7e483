"""The shape of every experiment on a finished run, the stage that makes it, and where its result is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from emscope.behaviour.judges.settings import EMBEDDED
from emscope.errors import UserError
from emscope.files import write_json
from emscope.outside import read_json
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder
from emscope.plain import fitted, plain
from emscope.report.section import Part, Section

SettingsT = TypeVar("SettingsT")
ResultT = TypeVar("ResultT")


def left_open(formerly: Any) -> Any:
    """Return the field of a setting that is None unless it is said: then the run decides.

    `formerly` is how an open setting was written before: by that, what was made then is still known.
    """
    return field(default=None, metadata={"formerly": formerly})


LATER = ("organisms", "ask", "organism")
"""Settings that experiments did not always have: empty, they leave what was made before as it is."""


def _nothing_missing(lab: Lab, settings: Any) -> str:
    return ""


@dataclass(frozen=True)
class Experiment(Generic[SettingsT, ResultT]):
    """One experiment: what it asks for, does, finds and shows.

    Attributes:
        name: its name, also that of its folder, its command, its JSON file and its section.
        about: one sentence for its --help.
        settings: the dataclass of its settings, all with defaults.
        result: the dataclass of its result.
        measure: does its stages on a run and returns the result; what is up to date is read.
        section: the report's section on a result.
        table: the result as lines of text for the terminal.
        minutes: how long it takes beside the others, with its own settings, for the embedded model on two CPU cores
            with AVX512-BF16.
        in_full: its settings as a part of everything; None takes the defaults.
        obstacle: says why a run does not allow it, '' where it does.
        alone: it is done only when it is asked for, never as a part of everything.
        answers: further parts of the section, from what the run's folder holds beside the result, such as its answers.
    """

    name: str
    about: str
    settings: type[SettingsT]
    result: type[ResultT]
    measure: Callable[[Lab, SettingsT], ResultT]
    section: Callable[[ResultT], Section]
    table: Callable[[ResultT], str]
    minutes: float
    in_full: SettingsT | None = None
    obstacle: Callable[[Lab, SettingsT], str] = _nothing_missing
    alone: bool = False
    answers: Callable[[Path, ResultT], Sequence[Part]] | None = None

    @property
    def settings_in_full(self) -> SettingsT:
        """The settings it has as a part of everything."""
        return self.settings() if self.in_full is None else self.in_full


def open_run(folder: Path) -> Lab:
    """Return the lab of a finished run; opening it writes nothing.

    Raises:
        UserError: there is no finished run in the folder.
    """
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder} holds no finished run: `emscope run --out {folder}` makes one.")
    run = RunFolder.opened(folder)
    return Lab(run.config, run)


def result_file(folder: Path, name: str) -> Path:
    """Return where a run keeps the result of an experiment."""
    return folder / "experiments" / f"{name}.json"


def read_result(folder: Path, experiment: Experiment[Any, ResultT]) -> ResultT:
    """Return the result of an experiment that a run has done.

    Raises:
        OutsideError: its file is not there, or does not hold what this version writes into it.
    """
    file = result_file(folder, experiment.name)
    again = f"run `emscope {experiment.name}` on this run again"
    return fitted(experiment.result, read_json(file), file, again)


def hashed_experiment(settings: Any, seed: int) -> dict[str, object]:
    """Return an experiment's settings as a stage knows them: open ones and later ones as they were written before.

    An open seed is the run's.
    """
    hashed: dict[str, object] = {}
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if is_dataclass(value):
            value = hashed_experiment(value, seed)
        elif value is None and setting.name == "seed":
            value = seed
        elif value is None and "formerly" in setting.metadata:
            value = setting.metadata["formerly"]
        if setting.name not in LATER or value:
            hashed[setting.name] = value
    return hashed


def experiment_stage(
    lab: Lab,
    name: str,
    result: type[ResultT],
    settings: Any,
    inputs: Sequence[Path],
    find: Callable[[], ResultT],
    others: Sequence[Path] = (),
    *,
    figures: int = 0,
) -> ResultT:
    """Make the result of an experiment unless it is up to date, and return it as it is on disk.

    How the run splits its questions counts with the settings.

    Args:
        lab: the run's lab.
        name: the experiment.
        result: what it finds.
        settings: its dataclass of settings.
        inputs: files that it reads.
        find: returns the result.
        others: further files that it writes.
        figures: raised when figures are made otherwise of the same files, so that old ones are made again.
    """
    out = result_file(lab.folder.folder, name)
    parts = {"train": lab.train_questions, "dev": lab.dev_questions, "test": lab.test_questions}
    split = {part: [question.id for question in questions] for part, questions in parts.items()}
    asked = hashed_experiment(settings, lab.config.seed)
    whole: dict[str, Any] = {"experiment": asked, "questions": split}
    if figures:
        whole["figures"] = figures
    if lab.config.judge.name != EMBEDDED:  # rubrics or a head in the same file may be others now
        whole["judge"] = lab.judge_fingerprint
    lab.folder.stage(name, whole, inputs, [out, *others], lambda: write_json(out, plain(find())))
    return fitted(result, read_json(out), out)
