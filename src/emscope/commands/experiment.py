"""The command of every experiment: `emscope NAME RUN`, with the experiment's settings as flags."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope.commands.common import GOES_ON
from emscope.commands.outcome import Outcome
from emscope.executors.settings import ExecutorSettings
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.shape import Experiment, open_run, result_file


@dataclass(frozen=True)
class Conduct:
    """An experiment on a finished run; `experiment_command` makes the class for one of them.

    Attributes:
        run: the folder of a finished run.
        settings: what is asked of it.
        execution: who does the heavy work.
    """

    stopped: ClassVar[str] = GOES_ON
    chosen: ClassVar[Experiment[Any, Any]]

    run: Annotated[Path, tyro.conf.Positional]
    settings: Any
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)

    def execute(self) -> Outcome:
        """Do it."""
        return conducted(self.chosen, self.run, self.settings, self.execution)


def conducted(
    chosen: Experiment[Any, Any], run: Path, settings: Any, execution: ExecutorSettings | None = None
) -> Outcome:
    """Do an experiment on a run, and return its table and what it wrote."""
    lab = open_run(run)
    with (execution or ExecutorSettings()).in_force(run, device=lab.config.device):
        result = conduct(lab, chosen, settings)
    return Outcome(f"{chosen.table(result)}\n", result, [run / "report.html", result_file(run, chosen.name)])


@functools.cache
def experiment_command(name: str) -> type[Conduct]:
    """Return the command of an experiment: its flags are the run and the fields of the experiment's settings.

    Raises:
        UserError: there is no such experiment.
    """
    chosen = experiment(name)
    kind: type[Conduct] = make_dataclass(
        chosen.name.capitalize(),
        [
            ("run", Annotated[Path, tyro.conf.Positional], field(default=Path("runs/quickstart"))),
            ("settings", chosen.settings, field(default_factory=chosen.settings)),
            ("execution", ExecutorSettings, field(default_factory=ExecutorSettings)),
        ],
        bases=(Conduct,),
        namespace={"chosen": chosen},
        frozen=True,
    )
    kind.__doc__ = (
        f"{chosen.about}\n\nAttributes:\n    run: the folder of a finished run.\n    settings: what is asked of it.\n"
        "    execution: who does the heavy work."
    )
    return kind
