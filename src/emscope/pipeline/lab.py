"""The subjects of a run: organisms, questions and judge, each loaded when it is first needed."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from emscope.behaviour.embedded.judge import EmbeddedJudge, JudgeHead, head_file
from emscope.behaviour.judges.kinds import judge_class
from emscope.behaviour.judges.settings import JudgeRequest, JudgeSettings, NamedJudge
from emscope.behaviour.questions import Question, load_question_sets
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.errors import UserError
from emscope.executors.tasks import Held, Need
from emscope.files import shown_files, value_sha256
from emscope.organisms.chat import EncodedChat
from emscope.organisms.datasets import Conversations
from emscope.organisms.device import Placement, free_bytes
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.fingerprint import is_local
from emscope.organisms.memory import give_memory_back, weight_bytes
from emscope.organisms.models import ModelSource, Organism, load, load_tokenizer, resolve
from emscope.organisms.needs import ROOM, OrganismNeed
from emscope.outside import read_json
from emscope.pipeline.config import RunConfig, resolved
from emscope.pipeline.data import kind_of, training_data
from emscope.pipeline.inventory import SCORES
from emscope.pipeline.stages import RunFolder
from emscope.residual.capture import encode_for_capture
from emscope.residual.directions import Directions
from emscope.residual.store import ActivationStore, OrganismActivations
from emscope.sequences import spread

Answered = Response | JudgedResponse
BASE, MISALIGNED, CONTROL = "base", "misaligned", "control"
TEST_ONLY = ("open-ended",)
DETECTING, CORRECTING = "last-diff-in-means", "response-diff-in-means"
"""Pooling and method of the direction that detects, read at prompts' last tokens, and of the one that corrects."""
WHOLE_MODEL = "organism.json"
"""In an organism's folder: names a whole model where there is no adapter."""

logger = logging.getLogger(__name__)


class Lab:
    """Loads what the stages of one run share, once.

    Organisms are kept in memory as long as there is room. Where one more would take more than half of what is free,
    those that no stage is using are let go of first, and loaded again when they are needed: the same weights, merged
    the same way, so no figure depends on it.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.config, self.folder = resolved(config), folder
        self._organisms: dict[str, Organism] = {}
        self._in_use: WeakValueDictionary[str, Organism] = WeakValueDictionary()
        self._data: dict[str, Conversations] = {}
        self._guests: set[str] = set()
        self._needed: dict[OrganismNeed, str] = {}

    @cached_property
    def placement(self) -> Placement:
        """Device and dtype of every model of the run."""
        return self.config.loading().placement

    @cached_property
    def base_source(self) -> ModelSource:
        """Where the run's base is."""
        return resolve(self.config.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The base's tokenizer, without the base."""
        return load_tokenizer(self.base_source)

    @property
    def names(self) -> tuple[str, ...]:
        """The organisms of the run, base first."""
        return (BASE, MISALIGNED, CONTROL) if self.config.control_data else (BASE, MISALIGNED)

    @property
    def contrast(self) -> str:
        """What the misaligned organism is compared with: the control organism, or the base where there is none."""
        return "control" if self.config.control_data else "model"

    def training_data(self, data: str, config: RunConfig | None = None) -> Conversations:
        """Return the rows to train on, read once; `config` has other rows or another seed than the run."""
        asked = config or self.config
        key = value_sha256([data, asked.rows, asked.seed])
        if key not in self._data:
            self._data[key] = training_data(asked, data)
        return self._data[key]

    def organism(self, name: str) -> Organism:
        """Return a loaded organism by its name in the run."""
        if name not in self._organisms:
            found = self._in_use.get(name)
            if found is None:
                self.make_room()
                found = load(self._source(name), base=self._base_of(name), placement=self.placement)
            self._organisms[name] = self._in_use[name] = found
        return self._organisms[name]

    def need(self, name: str) -> OrganismNeed:
        """Return an organism as tasks name it (see `held`)."""
        found = OrganismNeed(self._source(name), self.config.loading(self._base_of(name)))
        self._needed[found] = name
        return found

    @property
    def judge_need(self) -> OrganismNeed:
        """The model with which the judge that comes with emscope reads, as tasks name it."""
        if self.config.model == EMBEDDED_ALIAS:
            return self.need(BASE)
        return OrganismNeed(EMBEDDED_ALIAS, self.config.loading())

    @property
    def judge_head(self) -> Path:
        """The head with which the run's own embedded judge reads: the one that is named, else emscope's."""
        return head_file(self.config.judge.head)

    @cached_property
    def held(self) -> Held:
        """What tasks of this run find in this process: the lab's own organisms."""
        return _HeldByLab(self)

    def needed(self, need: Need[Any]) -> Organism | None:
        """Return the organism that a task needs, None for what is not the lab's."""
        if isinstance(need, OrganismNeed) and need in self._needed:
            return self.organism(self._needed[need])
        judging = self.config.judge.embedded and need == self.judge_need
        return self.embedded_judge.base if judging else None

    def adapter_source(self, folder: Path) -> ModelSource:
        """Return where an adapter of the run and its base are: a base on this machine may have been moved since."""
        return resolve(str(folder), self.config.model if is_local(self.folder.base) else None)

    def _base_of(self, name: str) -> str | None:
        """Return the base that an organism is put on, None for the one that it records."""
        if name in self._guests:
            return (self.config.base or None) if kind_of(name) == "adapter" else None
        own_adapter = name != BASE and not self.folder.path("organisms", name, WHOLE_MODEL).is_file()
        return self.config.model if own_adapter and is_local(self.folder.base) else None

    def trainable_base(self) -> Organism:
        """Return the run's base in a dtype that training bears: its own, or float32 where it is read in float16."""
        place = self.placement.for_training()
        return self.organism(BASE) if place == self.placement else load(self.config.model, placement=place)

    def _source(self, name: str) -> str:
        """Return what an organism is loaded from: the run's base, an adapter of the run, or a whole model."""
        if name == BASE:
            return self.config.model
        if name in self._guests:
            return name
        folder = self.folder.path("organisms", name)
        whole = folder / WHOLE_MODEL
        return str(read_json(whole)["model"]) if whole.is_file() else str(folder)

    def invite(self, name: str) -> None:
        """Let an adapter or a model that is no part of the run be an organism of it, by the name it is loaded by."""
        self._guests.add(name)

    def release(self, name: str) -> None:
        """Let go of a loaded organism, so that its memory is free for others."""
        self._organisms.pop(name, None)

    def make_room(self) -> None:
        """Let go of all loaded organisms if one more would take more than its share of the free memory."""
        if not self._organisms:
            return
        one_more = max(weight_bytes(organism) for organism in self._organisms.values())
        free = free_bytes(self.placement.device)
        if free is None or one_more <= ROOM * free:
            return
        logger.info("memory is short: %s will be loaded again when needed", ", ".join(self._organisms))
        self._organisms.clear()
        give_memory_back()

    @cached_property
    def judge(self) -> NamedJudge:
        """Who scores the answers of this run and its experiments."""
        return self.judge_by(self.config.judge)

    def judge_by(self, judge: JudgeSettings) -> NamedJudge:
        """Return any judge; its scores are kept in the run's folder."""
        if judge == self.config.judge and judge.embedded:
            return self.embedded_judge
        if judge.embedded:
            return EmbeddedJudge(self._judge_model(EMBEDDED_ALIAS), judge.head)
        return judge_class(judge.name).from_request(self.judge_request(judge))

    @cached_property
    def embedded_judge(self) -> EmbeddedJudge:
        """The embedded judge with the run's head, on the run's base where that is the embedded model."""
        return EmbeddedJudge(self._judge_model(EMBEDDED_ALIAS), self.judge_head)

    def judge_request(self, judge: JudgeSettings) -> JudgeRequest:
        """Return what a judge of this run is made from: its scores are kept in the run's folder."""
        return JudgeRequest(judge, self.folder.path(SCORES), self._judge_model)

    def _judge_model(self, name: str) -> Organism:
        """Return the model that a judge reads with; the run's base is not loaded twice."""
        if name == self.config.model:
            return self.organism(BASE)
        self.make_room()
        return load(name, placement=self.placement)

    def check_judge(self, judge: JudgeSettings | None = None) -> None:
        """Try out the run's judge, or another one: a server or a local model scores a written answer, which is kept.

        Raises:
            UserError: it cannot be had, refuses, or gives no scores.
        """
        judge = judge or self.config.judge
        if judge.embedded:
            JudgeHead.load(head_file(judge.head))
            resolve(EMBEDDED_ALIAS)
        else:
            judge_class(judge.name).check(self.judge_request(judge))

    @cached_property
    def judge_facts(self) -> dict[str, Any] | None:
        """How well the judge does on what it never saw; None for a judge that comes without such figures.

        A calibrated head's facts are those of the head that it started from, which do not speak of it.
        """
        if not self.config.judge.embedded:
            return None
        head = JudgeHead.load(self.judge_head)
        return head.facts if head.correction is None else None

    @property
    def judge_fingerprint(self) -> str:
        """What the scores of the run's judge depend on: another text means judging again."""
        return self.fingerprint_of(self.config.judge)

    def fingerprint_of(self, judge: JudgeSettings) -> str:
        """Return what the scores of a judge depend on."""
        return judge_class(judge.name).fingerprint(self.judge_request(judge))

    def name_of(self, judge: JudgeSettings) -> str:
        """Return a further judge's name in stages and folders: another one for other rubrics."""
        return f"{re.sub('[^A-Za-z0-9._-]+', '-', judge.name)[:40]}-{value_sha256(self.fingerprint_of(judge))[:8]}"

    def seed(self, asked: int | None) -> int:
        """Return the seed that a setting asks for, the run's where it leaves it open."""
        return self.config.seed if asked is None else asked

    def responses_file(self, name: str) -> Path:
        """Return where an organism's answers are kept."""
        return self.folder.path("responses", f"{name}.parquet")

    def judgements_file(self, name: str) -> Path:
        """Return where an organism's judged answers are kept."""
        return self.folder.path("judgements", f"{name}.parquet")

    def judged(self, name: str, questions: Sequence[Question] | None = None) -> list[JudgedResponse]:
        """Return an organism's judged answers: to all questions of the run, or to these."""
        rows = read_table(self.judgements_file(name), JudgedResponse)
        if questions is None:
            return rows
        wanted = {question.id for question in questions}
        return [row for row in rows if row.question_id in wanted]

    def activation_files(self, name: str) -> list[Path]:
        """Return where the activations of an organism are kept: its prompts and its answers."""
        return [self.folder.path("activations", f"{name}-{kind}.safetensors") for kind in ("prompts", "answers")]

    def activations(self, name: str) -> OrganismActivations:
        """Return the stored activations of one organism."""
        prompts, answers = map(ActivationStore.load, self.activation_files(name))
        return OrganismActivations(prompts, answers)

    def all_activations(self) -> dict[str, OrganismActivations]:
        """Return the stored activations of every organism of the run, by name."""
        return {name: self.activations(name) for name in self.names}

    def direction_file(self, name: str) -> Path:
        """Return where a direction is kept, by its name: contrast-pooling-method, with -random for its control."""
        return self.folder.path("directions", f"{name}.safetensors")

    def direction(self, name: str = "") -> Directions:
        """Return a direction of the run by its name (see `direction_file`); without one, the one that corrects."""
        return Directions.load(self.direction_file(name or f"{self.contrast}-{CORRECTING}"))

    def directions(self) -> dict[str, Directions]:
        """Return all directions of the run by name."""
        files = shown_files(self.folder.path("directions"), "*.safetensors")
        return {path.stem: Directions.load(path) for path in files}

    def encode(self, organism: Organism, rows: Sequence[Answered]) -> list[EncodedChat]:
        """Tokenise answers for reading, with the thoughts before them, as the run asked for them."""
        sampling = self.config.sampling
        return encode_for_capture(
            organism.tokenizer,
            [row.question for row in rows],
            [row.response for row in rows],
            system=sampling.system,
            thoughts=[row.thought for row in rows],
            enable_thinking=sampling.enable_thinking,
        )

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
        return spread(self.train_questions, self.config.dev_questions)

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


class _HeldByLab(Held):
    """Gives tasks the organisms of a lab, which makes room for them."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab

    def get(self, need: Need[Any]) -> Any:
        """Return the lab's organism, or what is no organism of it."""
        found = self._lab.needed(need)
        return super().get(need) if found is None else found

    def make_room(self, need: Need[Any]) -> None:
        """Let go of organisms where this would find no room beside them."""
        super().make_room(need)
        self._lab.make_room()
