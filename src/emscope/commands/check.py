"""`emscope check`: is what is on disk what was made?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.commands.outcome import Outcome
from emscope.errors import EXIT_DONE, EXIT_FINDING, UserError
from emscope.experiments import EXPERIMENTS
from emscope.pipeline.checking import BANK_REMEDY, DAMAGED, Checked, check, drop_stages
from emscope.pipeline.config import WITH_EXPERIMENTS, load_config
from emscope.pipeline.inventory import CONFIG
from emscope.pipeline.record import RECORD

REMEDIES = {
    "bank": BANK_REMEDY,
    "organism": "Make it again, or put back a copy of its files.",
    "store of scores": "Damaged scores are asked for again; delete a store that SQLite cannot read.",
}


@dataclass(frozen=True)
class Check:
    """Compare a run, a bank, an organism or a store of scores with its records; nothing is written.

    The exit code is 0 where all is well and 1 where something is not.

    Attributes:
        path: the folder of a run, of a bank or of an organism, or a store of scores (scores.sqlite).
        repair: have what is bad in a run made again; your own files stay.
    """

    stopped: ClassVar[str] = GOES_ON

    path: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    repair: bool = False

    def execute(self) -> Outcome:
        """Check, and repair if that is asked for."""
        checked = check(self.path)
        text = table(self.path, checked)
        if not checked.findings:
            return Outcome(text, checked)
        if not self.repair:
            return Outcome(f"{text}\n{advice(self.path, checked)}\n", checked, code=EXIT_FINDING)
        if checked.kind != "run":
            raise UserError(f"Only a run can be repaired by itself. {REMEDIES[checked.kind]}")
        terminal.note(text)  # before the work, which may take long
        return self._repaired(checked)

    def _repaired(self, checked: Checked) -> Outcome:
        """Have bad stages made again; returns what a check says then."""
        for finding in checked.findings:
            if finding.problem == DAMAGED and finding.what in (RECORD, CONFIG):
                raise UserError(finding.detail)
        drop_stages(self.path, checked.stages)
        terminal.note(f"{len(checked.stages)} stages are off the record, and are made again.")

        from emscope.commands.run import Run

        made = Run(config=self.path).execute()
        text = made.text
        if load_config(self.path / CONFIG).preset not in WITH_EXPERIMENTS:
            left = sorted({experiment_of(stage) for stage in checked.stages} - {""})
            for name in left:
                text += f"To make it again, with the settings that it had: emscope {name} {self.path}\n"
        again = check(self.path)
        code = EXIT_FINDING if again.findings else EXIT_DONE
        return Outcome(f"{text}\n{table(self.path, again)}", again, made.files, code)


def experiment_of(stage: str) -> str:
    """Return the experiment that a stage belongs to, '' for the main job."""
    for name in EXPERIMENTS:
        if stage == name or stage.startswith(f"{name}-"):
            return name
    return ""


def table(path: Path, checked: Checked) -> str:
    """Return what a check found as lines of text."""
    unit = "rows" if checked.kind == "store of scores" else "files" if checked.kind != "bank" else "organisms"
    n_findings = len(checked.findings)
    said = f"{n_findings} findings" if n_findings != 1 else "1 finding"
    lines = [f"{path}: a {checked.kind}, {checked.n_checked:,} {unit} compared, {said if n_findings else 'all well'}"]
    problem_width = max((len(finding.problem) for finding in checked.findings), default=0)
    what_width = min(60, max((len(finding.what) for finding in checked.findings), default=0))
    for finding in checked.findings:
        lines.append(f"  {finding.problem:<{problem_width}}  {finding.what:<{what_width}}  {finding.detail}")
    for note in checked.notes:
        lines.append(f"  note: {note}")
    return "\n".join(lines) + "\n"


def advice(path: Path, checked: Checked) -> str:
    """Return what can be done about the findings."""
    if checked.kind != "run":
        return REMEDIES[checked.kind]
    if not checked.stages:
        return "No stage can make these again: put back a copy of them."
    return (
        f"{len(checked.stages)} stages have to be made again: `emscope check {path} --repair` does that; so does the "
        "command that made them."
    )


COMMAND = Check
