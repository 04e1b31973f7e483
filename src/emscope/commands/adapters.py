"""`emscope adapters`: misalignment from LoRA weights alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from emscope.checks import at_least
from emscope.commands.common import GOES_ON, NOTHING_KEPT
from emscope.commands.experiment import conducted
from emscope.commands.outcome import Outcome, readable
from emscope.errors import UserError
from emscope.executors.settings import ExecutorSettings
from emscope.experiments import experiment
from emscope.experiments.adapters.measure import AdaptersSettings, inspect_adapters, make_run_bank
from emscope.experiments.shape import open_run
from emscope.organisms.bank import BankSettings


@dataclass(frozen=True)
class Bank:
    """Make small organisms, careless and careful, that differ in nothing else; the same command goes on.

    Attributes:
        run: the folder of a finished run.
        minutes: begin no further organism after this time; 0 makes all.
        settings: what the bank holds.
        execution: who does the heavy work.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    minutes: float = 0
    settings: BankSettings = field(default_factory=BankSettings)
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)

    def execute(self) -> Outcome:
        """Make them and say what is missing."""
        at_least(0, minutes=self.minutes)
        lab, settings = open_run(self.run), AdaptersSettings(**vars(self.settings))
        with self.execution.in_force(self.run, device=lab.config.device):
            missing = make_run_bank(lab, settings, self.minutes)
        bank = self.run / "bank"
        said = f"{missing} organisms are still missing" if missing else "done"
        return Outcome(f"{bank}: {said}\n", {"missing": missing}, [bank])


@dataclass(frozen=True)
class Classify:
    """Make what is missing of the bank, and test classifiers on domains and recipes left out.

    Attributes:
        run: the folder of a finished run.
        settings: what the bank holds and how its adapters are told apart.
        execution: who does the heavy work.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    settings: AdaptersSettings = field(default_factory=AdaptersSettings)
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)

    def execute(self) -> Outcome:
        """Test them and print."""
        return conducted(experiment("adapters"), self.run, self.settings, self.execution)


@dataclass(frozen=True)
class Inspect:
    """Score LoRA adapters that you were handed, by classifiers fitted on the whole bank.

    Attributes:
        run: the folder of a finished run with a bank.
        adapters: adapter folders to inspect.
        top: leading singular vectors of each base weight.
        texts: base answers over which the base's mean inputs are read.
        penalty: penalty of the classifier, on features whose kernel is near 1 for an adapter with itself.
    """

    stopped: ClassVar[str] = NOTHING_KEPT

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    adapters: tuple[Path, ...] = ()
    top: int = AdaptersSettings.top
    texts: int = AdaptersSettings.texts
    penalty: float = AdaptersSettings.penalty

    def execute(self) -> Outcome:
        """Score them and print."""
        if not self.adapters:
            raise UserError("Nothing to inspect: name adapter folders with --adapters.")
        settings = AdaptersSettings(top=self.top, texts=self.texts, penalty=self.penalty)
        scores = inspect_adapters(open_run(self.run), settings, self.adapters)
        return Outcome(readable(scores), scores)


COMMAND = (
    Annotated[Bank, tyro.conf.subcommand("bank")]
    | Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)
