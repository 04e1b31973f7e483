"""The subjects of a run: organisms, questions and judge, each loaded when it is first needed."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

from emscope.behaviour.embedded.judge import EmbeddedJudge, JudgeHead, shipped_head
from emscope.behaviour.questions import Question, load_question_sets
from emscope.errors import UserError
from emscope.files import file_sha256
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import Organism, load
from emscope.pipeline.config import RunConfig
from emscope.pipeline.stages import RunFolder
from emscope.report.page import RunProducts

BASE, MISALIGNED, CONTROL = "base", "misaligned", "control"
TEST_ONLY = ("open-ended",)


class Lab:
    """Loads what the stages of one run share, once."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self._organisms: dict[str, Organism] = {}

    @cached_property
    def placement(self) -> Placement:
        """Device and dtype of every model of the run."""
        return choose_placement()

    @property
    def names(self) -> tuple[str, ...]:
        """The organisms of the run, base first."""
        return (BASE, MISALIGNED, CONTROL) if self.config.control_data else (BASE, MISALIGNED)

    def organism(self, name: str) -> Organism:
        """Return a loaded organism by its name in the run."""
        if name not in self._organisms:
            source = self.config.model if name == BASE else str(self.folder.path("organisms", name))
            self._organisms[name] = load(source, placement=self.placement)
        return self._organisms[name]

    def release(self, name: str) -> None:
        """Let go of a loaded organism, so that its memory is free for others."""
        self._organisms.pop(name, None)

    @cached_property
    def judge(self) -> EmbeddedJudge:
        """The offline judge, on the run's base where that is the embedded model."""
        if self.config.model == EMBEDDED_ALIAS:
            return EmbeddedJudge(self.organism(BASE))
        return EmbeddedJudge(load(EMBEDDED_ALIAS, placement=self.placement))

    @cached_property
    def judge_facts(self) -> dict[str, Any]:
        """How well the judge does on what it never saw."""
        return JudgeHead.load(shipped_head()).facts

    @property
    def judge_fingerprint(self) -> str:
        """The hash of the judge's numbers: new numbers mean judging again."""
        return file_sha256(shipped_head())

    def products(self) -> RunProducts:
        """Return what the report shows of this run."""
        stages = self.folder.record["stages"]
        return RunProducts(self.folder.folder, self.names, asdict(self.config), self.judge_facts, stages)

    @cached_property
    def questions(self) -> list[Question]:
        """All questions of the run."""
        found = load_question_sets(self.config.question_sets)
        if not found:
            raise UserError("The run has no questions: name at least one question set.")
        if any(question.system for question in found):
            raise UserError(
                "A run asks questions without system prompts of their own: use `emscope generate` for these."
            )
        return found

    @property
    def groups(self) -> dict[str, str]:
        """What statistics draw together and splits keep together, by question id."""
        return {question.id: question.group for question in self.questions}

    @cached_property
    def train_questions(self) -> list[Question]:
        """Questions that directions, thresholds and the ablation are chosen on: every other one of each area."""
        return [question for question in self.questions if question.group in self._train_groups]

    @cached_property
    def test_questions(self) -> list[Question]:
        """Questions that figures are reported on; open-ended ones are never trained on."""
        return [question for question in self.questions if question.group not in self._train_groups]

    @cached_property
    def dev_questions(self) -> list[Question]:
        """The training questions on which the ablation is chosen, spread over them evenly."""
        n = min(self.config.dev_questions, len(self.train_questions))
        return [self.train_questions[index * len(self.train_questions) // n] for index in range(n)]

    @cached_property
    def _train_groups(self) -> set[str]:
        by_area: dict[tuple[str, str], dict[str, None]] = {}
        for question in self.questions:
            by_area.setdefault((question.question_set, question.area), {})[question.group] = None
        chosen: set[str] = set()
        odd_one = False
        for (name, _), groups in by_area.items():
            if name in TEST_ONLY:
                continue
            chosen.update(list(groups)[int(odd_one) :: 2])
            odd_one ^= len(groups) % 2 == 1  # areas with an odd number give the extra question by turns
        test_only = {question.group for question in self.questions if question.question_set in TEST_ONLY}
        return chosen - test_only
