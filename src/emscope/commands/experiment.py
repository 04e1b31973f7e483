"""The command of every experiment: `emscope NAME RUN`, with the experiment's settings as flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.checks import check_seeds_in
from emscope.commands.common import GOES_ON
from emscope.experiments import experiment
from emscope.experiments.conduct import conduct
from emscope.experiments.shape import Experiment, open_run


@dataclass(frozen=True)
class Conduct:
    """An experiment on a finished run.

    Attributes:
        chosen: the experiment.
        run: the run's folder.
        settings: what is asked of it.
    """

    stopped: ClassVar[str] = GOES_ON

    chosen: Experiment[Any, Any]
    run: Path
    settings: Any

    def execute(self) -> int | None:
        """Do it and print its table."""
        result = conduct(open_run(self.run), self.chosen, self.settings)
        terminal.write(f"{self.chosen.table(result)}\nOpen {self.run / 'report.html'}\n")
        return None


def parse_experiment(name: str, flags: Sequence[str]) -> Conduct:
    """Build the command of an experiment from its flags; exits with 2 and says what is wrong when they do not fit."""
    chosen = experiment(name)
    words = list(flags[1:]) if name == "sweep" and list(flags[:1]) == ["layers"] else list(flags)  # an earlier form
    given: Any = tyro.cli(_flags_of(chosen), prog=f"emscope {name}", args=words, config=(tyro.conf.OmitArgPrefixes,))
    check_seeds_in(given)
    return Conduct(chosen, given.run, given.settings)


def _flags_of(chosen: Experiment[Any, Any]) -> Any:
    """Return the dataclass whose fields are the experiment's flags."""
    flags = make_dataclass(
        chosen.name.capitalize(),
        [
            ("run", Annotated[Path, tyro.conf.Positional], field(default=Path("runs/quickstart"))),
            ("settings", chosen.settings, field(default_factory=chosen.settings)),
        ],
        frozen=True,
    )
    flags.__doc__ = (
        f"{chosen.about}\n\nAttributes:\n    run: the folder of a finished run.\n    settings: what is asked of it."
    )
    return flags
