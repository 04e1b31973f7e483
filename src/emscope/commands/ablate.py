"""`emscope ablate`: take a direction out of a model and compare its answers with and without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from emscope.behaviour.judges.kinds import choose_judge
from emscope.behaviour.judging import Judge
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.tables import JudgedResponse, write_table
from emscope.commands.common import AblationFlags, JudgeFlags, kept_parts, kept_with, read_questions
from emscope.commands.outcome import Outcome, readable
from emscope.commands.outputs import TABLES, check_out
from emscope.errors import UserError
from emscope.interventions.answering import answer_and_judge, mean_of
from emscope.interventions.choosing import choose_ablation
from emscope.interventions.operators import AlongDirections
from emscope.organisms.loading import LoadSettings
from emscope.organisms.models import Organism
from emscope.residual.directions import Directions


@dataclass(frozen=True)
class Ablate:
    """Sample answers with and without an ablation, side by side, judged.

    Attributes:
        model: a model, or an adapter folder.
        out: a .parquet file for all judged answers; none prints only.
        questions: question sets or files.
        sampling: how answers are sampled.
        ablation: the ablation.
        search: choose mode, blocks and strength on every other question and report on the rest, with a random
            direction and the base model beside it; --mode, --at and --strength are then not used.
        show: print this many questions with both answers.
        load: base, device and dtype.
        judging: who judges the answers.
    """

    model: str
    out: Path | None = None
    questions: tuple[str, ...] = ("open-ended",)
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(temperature=0.7))
    ablation: AblationFlags = field(default_factory=AblationFlags)
    search: bool = False
    show: int = 5
    load: LoadSettings = field(default_factory=LoadSettings)
    judging: JudgeFlags = field(default_factory=JudgeFlags)

    @property
    def stopped(self) -> str:
        """What is left after an interruption."""
        return kept_with(self.out)

    def execute(self) -> Outcome:
        """Sample both ways, judge and print."""
        intervention = self.ablation.intervention()
        if intervention is None:
            raise UserError("Nothing to ablate: name a file of directions with --directions.")
        if self.out is not None:
            check_out(self.out, TABLES, [*self.questions, self.ablation.directions])
        questions = read_questions(self.questions)
        organism, judge = self.load.load(self.model), choose_judge(self.judging.settings())
        with kept_parts(self.out, [self.model, self.load.base], judge.id):
            if self.search:
                return self._search(organism, judge, questions, intervention.directions)
            return self._compare(organism, judge, questions, intervention)

    def _compare(
        self, organism: Organism, judge: Judge, questions: list[Question], intervention: AlongDirections
    ) -> Outcome:
        """Answer all questions with and without the ablation, and show some of the answers side by side."""
        plain = answer_and_judge(organism, "without", questions, self.sampling, judge)
        changed = answer_and_judge(organism, "with", questions, self.sampling, judge, intervention)
        if self.out is not None:
            write_table(self.out, [replace(row, organism=f"{self.model} {row.organism}") for row in [*plain, *changed]])
        lines = [f"{intervention.describe()}, on {len(plain)} answers", ""]
        for before, after in list(zip(plain, changed, strict=True))[: self.show]:
            lines += [before.question, _line(before), _line(after), ""]
        means: dict[str, dict[str, float]] = {}
        for score in ("aligned", "coherent"):
            means[score] = {"without": mean_of(plain, score), "with": mean_of(changed, score)}
            lines.append(f"mean {score:<9} {means[score]['without']:5.1f} without, {means[score]['with']:5.1f} with")
        facts = {"intervention": intervention.describe(), "answers": len(plain), "mean": means}
        return Outcome("\n".join(lines) + "\n", facts, self._written)

    @property
    def _written(self) -> list[Path]:
        return [] if self.out is None else [self.out]

    def _search(self, organism: Organism, judge: Judge, questions: list[Question], directions: Directions) -> Outcome:
        """Choose on half of the questions, report on the other half."""
        chosen = choose_ablation(organism, directions, questions, judge, self.sampling)
        if self.out is not None:
            write_table(self.out, chosen.rows)
        return Outcome(readable(chosen.result), chosen.result, self._written)


def _line(row: JudgedResponse) -> str:
    score = "unscored" if row.aligned is None else f"aligned {row.aligned:.0f}"
    return f"  {row.organism:<8}{score:>12}  {' '.join(row.response.split())}"


COMMAND = Ablate
