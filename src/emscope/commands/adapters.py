"""`emscope adapters`: misalignment from LoRA weights alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from emscope.commands.common import emit
from emscope.errors import UserError
from emscope.files import read_json
from emscope.pipeline.experiments.adapters import AdaptersSettings, inspect_adapters, make_run_bank, run_adapters
from emscope.pipeline.experiments.opening import open_run
from emscope.report.sections import experiment_file


@dataclass(frozen=True)
class Adapters:
    """Tell careless from careful LoRA adapters by their weights, without running the models.

    bank makes small organisms, careless and careful, that differ in nothing else; classify makes what is missing of
    them and tests classifiers on domains and recipes left out; inspect scores adapters you were handed.

    Attributes:
        action: bank, classify or inspect.
        run: the folder of a finished run.
        adapters: adapter folders to inspect.
        minutes: bank: begin no further organism after this time; 0 makes all. The same command goes on.
        settings: what the bank holds and how its adapters are told apart.
    """

    action: Annotated[Literal["bank", "classify", "inspect"], tyro.conf.Positional]
    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    adapters: tuple[Path, ...] = ()
    minutes: float = 0
    settings: AdaptersSettings = field(default_factory=AdaptersSettings)

    def execute(self) -> int | None:
        """Do it and print."""
        if (self.action == "inspect") != bool(self.adapters):
            raise UserError("Name adapter folders with --adapters to inspect them, and only then.")
        lab = open_run(self.run)
        if self.action == "bank":
            missing = make_run_bank(lab, self.settings, self.minutes)
            sys.stdout.write(
                f"{self.run / 'bank'}: {f'{missing} organisms are still missing' if missing else 'done'}\n"
            )
        elif self.action == "inspect":
            emit(inspect_adapters(lab, self.settings, self.adapters), None)
        else:
            run_adapters(lab, self.settings)
            sys.stdout.write(_table(read_json(experiment_file(self.run, "adapters"))))
        return None


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['bank']['organisms']} organisms; balanced accuracy on what was left out (95 %)"]
    for name, schemes in found["classification"].items():
        parts = []
        for scheme, told in schemes.items():
            share = told["balanced_accuracy"]
            parts.append(f"{scheme} {share['value']:.2f} ({share['low']:.2f} - {share['high']:.2f})")
        lines.append(f"  {name:<18}{'   '.join(parts)}")
    for name in ("direction", "random direction"):
        share = found["known_direction"][name]["balanced_accuracy"]
        lines.append(f"  {name + ' alone':<24}{share['value']:.2f} ({share['low']:.2f} - {share['high']:.2f})")
    for name, scores in found["run"]["log_odds"].items():
        lines.append(f"  {name}: " + ", ".join(f"{key} {value:+.1f}" for key, value in scores.items()))
    return "\n".join(lines) + "\n"


COMMAND = Adapters
