"""Ask the base a run's test questions after n narrow examples: no training, only earlier turns in its context.

After Afonin et al. 2025 (arXiv 2510.11288), where large models with narrow bad examples in their prompt answer
misaligned elsewhere. Careful examples are the control; the run's direction is read, and taken out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emscope import progress
from emscope.behaviour.sampling import longest_answer
from emscope.behaviour.shots import after_shots, drawn, turns_of
from emscope.behaviour.tables import JudgedResponse, write_table
from emscope.errors import UserError
from emscope.experiments.incontext.result import (
    CAREFUL,
    CARELESS,
    DIRECTION,
    MIXED,
    RANDOM,
    InContextResult,
    ShotCell,
    Undone,
)
from emscope.experiments.main.result import AnswerFigures, MainResult, read_main
from emscope.experiments.main.summary import answer_figures
from emscope.experiments.shape import experiment_stage
from emscope.interventions.answering import answer_and_judge
from emscope.interventions.operators import Intervention
from emscope.organisms.architecture import n_positions
from emscope.organisms.chat import EncodedChat, Message, messages_of, prepare_prompt
from emscope.organisms.datasets import DOMAINS
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, DETECTING, Lab
from emscope.pipeline.training import adapter_files
from emscope.pipeline.works import answering
from emscope.residual.capture import CaptureSettings, capture
from emscope.residual.directions import Directions, random_like
from emscope.sequences import spread
from emscope.statistics import Estimate, estimate_mean

TOKENS_AT_ONCE = 65_536
"""Tokens of context in a batch that is sampled: each row has its own copy of the examples' keys and values."""


@dataclass(frozen=True)
class InContextSettings:
    """Which examples, how many, and what is asked after them.

    Attributes:
        data: careless rows; by default the run's own, or the built-in medical ones where those are not at hand.
        control_data: careful rows; by default the run's own; none leaves careful and mixed examples out.
        shots: numbers of examples; those that do not fit the model's context are left out.
        mixed: also show careless and careful examples by turns.
        draws: draws of the examples, each asked every question.
        questions: test questions that are asked, evenly spread; None takes all.
    """

    data: str | None = None
    control_data: str | None = None
    shots: tuple[int, ...] = (2, 8, 32, 64)
    mixed: bool = True
    draws: int = 2
    questions: int | None = 36

    def __post_init__(self) -> None:
        """Refuse settings that show nothing."""
        if min(self.shots, default=0) < 1:
            raise UserError("shots must be numbers of examples, each 1 or more; the base without any is always asked.")
        if self.draws < 1 or (self.questions is not None and self.questions < 1):
            raise UserError("Examples need at least one draw and one question.")


def measure(lab: Lab, settings: InContextSettings) -> InContextResult:
    """Ask, judge and read the base at every number of examples; writes judgements/incontext.parquet too.

    Raises:
        UserError: data that cannot be read.
    """
    answers_file = lab.judgements_file("incontext")
    data = _data(lab, settings)
    inputs: list[Path] = [lab.judgements_file(name) for name in lab.names]
    for name in lab.names:
        inputs += [*lab.activation_files(name), *adapter_files(lab, name)]
    inputs += [lab.direction_file(name) for name in (f"{lab.contrast}-{DETECTING}", f"model-{DETECTING}")]
    inputs += [lab.folder.path(name) for name in ("detection.json", "ablation.json")]
    n_asked = len(spread(lab.test_questions, settings.questions)) * settings.draws
    n_cells = len(settings.shots) * (1 + (CAREFUL in data) * (1 + settings.mixed)) + 3

    def result() -> InContextResult:
        bench = _Bench(lab, settings, data)
        found = bench.result()
        write_table(answers_file, bench.kept)
        return found

    with progress.plan({"incontext": 3 * answering(n_cells * n_asked, lab.config.sampling)}):
        return experiment_stage(lab, "incontext", InContextResult, settings, inputs, result, [answers_file])


def _data(lab: Lab, settings: InContextSettings) -> dict[str, str]:
    """Return the rows that each kind of examples comes from."""
    careless = settings.data or lab.config.misaligned_data
    careful = settings.control_data or lab.config.control_data
    if is_trained_elsewhere(careless):
        careless, careful = f"{DOMAINS[0]}-careless", settings.control_data or f"{DOMAINS[0]}-careful"
    data = {CARELESS: careless}
    if careful and not is_trained_elsewhere(careful):
        data[CAREFUL] = careful
    return data


@dataclass(frozen=True)
class _Shown:
    """Examples of one kind as they stand before the questions.

    Attributes:
        kind: careless, careful or mixed.
        n: how many.
        draws: by draw, the turns before every question.
        chats: by draw, every question after these turns, encoded for reading.
    """

    kind: str
    n: int
    draws: list[list[Message]]
    chats: list[list[EncodedChat]]

    @property
    def tokens(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(chat.ids) for chats in self.chats for chat in chats)


class _Bench:
    """The base, the questions, and what is read off and kept of every prompt with examples."""

    def __init__(self, lab: Lab, settings: InContextSettings, data: Mapping[str, str]) -> None:
        self.lab, self.settings, self.data = lab, settings, data
        self.base, self.seed = lab.organism(BASE), lab.config.seed
        self.positions = n_positions(self.base.model.config)
        self.rows = {kind: lab.training_data(name).train for kind, name in data.items()}
        self.questions = spread(lab.test_questions, settings.questions)
        self.main: MainResult = read_main(lab.folder.folder)
        self.direction = f"{lab.contrast}-{DETECTING}"
        self.block = self.main.detection[self.direction].best_block
        self.scoring, self.fine_tune = lab.direction(self.direction), lab.direction(f"model-{DETECTING}")
        self.kept: list[JudgedResponse] = []

    def result(self) -> InContextResult:
        """Do every cell by kind, smallest prompts first, then take directions out of the largest careless one."""
        asked = sorted(set(self.settings.shots))
        by_number = {n: [self._shown(kind, n) for kind in self._kinds()] for n in asked if self._has_rows(n)}
        fitting = {n: shown for n, shown in by_number.items() if all(map(self._fits, shown))}

        nothing = self._shown(CARELESS, 0)
        without = self._read(nothing)
        cells = [self._cell(nothing, without)]
        for place in range(len(self._kinds())):
            cells += [self._cell(shown[place], without) for shown in fitting.values()]

        return InContextResult(
            data=self.data,
            questions=len(self.questions),
            draws=self.settings.draws,
            block=self.block,
            direction=self.direction,
            positions=self.positions,
            skipped=tuple(n for n in asked if n not in fitting),
            cells=tuple(cells),
            organisms={
                name: answer_figures(self.lab.judged(name, self.questions), self.seed) for name in self.lab.names
            },
            organism_scores=self._organism_scores(),
            undone=tuple(self._undone(fitting[max(fitting)][0])) if fitting else (),
        )

    def _kinds(self) -> list[str]:
        """Return the kinds of examples, careless ones first."""
        if CAREFUL not in self.data:
            return [CARELESS]
        return [CARELESS, CAREFUL, MIXED] if self.settings.mixed else [CARELESS, CAREFUL]

    def _has_rows(self, n: int) -> bool:
        """Say whether every data set has so many rows."""
        return min(map(len, self.rows.values())) >= n

    def _fits(self, shown: _Shown) -> bool:
        """Say whether the longest question and its answer fit after the examples."""
        room = self.positions
        return room is None or shown.tokens + longest_answer(self.lab.config.sampling) <= room

    def _shown(self, kind: str, n: int) -> _Shown:
        """Return n examples of a kind before every question; the kinds of one draw have the same rows by number."""
        draws = []
        for number in range(self.settings.draws if n else 1):
            seed = self.seed + number
            if kind == MIXED:
                careless, careful = (drawn(self.rows[side], n, seed=seed) for side in (CARELESS, CAREFUL))
                chosen = [careless[place] if place % 2 == 0 else careful[place] for place in range(n)]
            else:
                chosen = drawn(self.rows[kind], n, seed=seed)
            draws.append(turns_of(chosen))
        return _Shown(kind, n, draws, list(map(self._prompts, draws)))

    def _prompts(self, shots: Sequence[Message]) -> list[EncodedChat]:
        """Return every question after these turns, encoded for reading."""
        sampling = self.lab.config.sampling
        chats = []
        for question in self.questions:
            messages = after_shots(messages_of(question.text, system=question.system_after(sampling.system)), shots)
            prompt = prepare_prompt(self.base.tokenizer, messages, sampling.enable_thinking)
            chats.append(EncodedChat(prompt.ids, [False] * len(prompt.ids), spelled=prompt.spelled))
        return chats

    def _cell(self, shown: _Shown, without: np.ndarray) -> ShotCell:
        """Ask and read the base after some examples; `without` are its activations after none."""
        named = f"{shown.n} {shown.kind} examples"
        with progress.logged_step(named if shown.n else "no examples"):
            answers = self._answers(f"base + {named}", shown)
            activations = self._read(shown)

        row = self.scoring.blocks.index(self.block)
        groups = [question.group for question in self.questions] * len(shown.draws)
        score = estimate_mean(self.scoring.score(activations)[:, row].tolist(), groups, self.seed)
        cosines = _cosines(activations.mean(axis=0) - without.mean(axis=0), self.fine_tune)
        return ShotCell(
            shown.kind, shown.n, shown.tokens, answer_figures(answers, self.seed), score, cosines[row], tuple(cosines)
        )

    def _read(self, shown: _Shown) -> np.ndarray:
        """Return last-prompt-token activations of every draw and question, [n_draws · n_questions, n_blocks, d]."""
        activations = []
        for chats in shown.chats:
            captured = capture(self.base, chats, CaptureSettings(("last",)))
            activations.append(captured.pooled["last"][:, list(self.scoring.blocks)])
        return np.concatenate(activations)

    def _answers(self, label: str, shown: _Shown, intervention: Intervention | None = None) -> list[JudgedResponse]:
        """Return the judged answers to every question after every draw; they are kept for the run's table."""
        sampling = self.lab.config.sampling
        size = max(1, min(sampling.batch_size, TOKENS_AT_ONCE // (shown.tokens + sampling.max_new_tokens)))
        answers: list[JudgedResponse] = []
        for number, shots in enumerate(shown.draws):
            settings = replace(sampling, batch_size=size, seed=sampling.seed + number)
            name = label if len(shown.draws) == 1 else f"{label}, draw {number + 1}"
            answers += answer_and_judge(self.base, name, self.questions, settings, self.lab.judge, intervention, shots)
        self.kept += answers
        return answers

    def _undone(self, shown: _Shown) -> list[Undone]:
        """Return the base after these examples, and the run's ablation or a random direction's on it."""
        ablation = self.main.ablation
        directions = self.lab.direction(ablation.direction)
        named = f"{shown.n} {shown.kind} examples"
        undone = []
        for what, vectors in ((DIRECTION, directions), (RANDOM, random_like(directions, self.seed))):
            with progress.logged_step(f"{named} without {what}"):
                answers = self._answers(f"base + {named}, without {what}", shown, ablation.chosen.on(vectors))
            undone.append(Undone(what, answer_figures(answers, self.seed)))
        return undone

    def _organisms(self) -> dict[str, AnswerFigures]:
        """Return how the run's own organisms answer the same questions, without examples."""
        judged = {name: self.lab.judged(name, self.questions) for name in self.lab.names}
        return {name: answer_figures(rows, self.seed) for name, rows in judged.items()}

    def _organism_scores(self) -> dict[str, Estimate]:
        """Return the mean scores of the run's own organisms on the same questions, without examples."""
        ids = [question.id for question in self.questions]
        groups = [question.group for question in self.questions]
        row = self.scoring.blocks.index(self.block)
        scores = {}
        for name in self.lab.names:
            activations = self.lab.activations(name).prompts.by_question("last", ids)
            scores[name] = estimate_mean(self.scoring.score(activations)[:, row].tolist(), groups, self.seed)
        return scores


def _cosines(shift: np.ndarray, fine_tune: Directions) -> list[float]:
    """Return the cosine of a shift [n_blocks, d_model] with the fine-tune's by block; NaN where nothing moves."""
    lengths = np.linalg.norm(shift, axis=1) * np.linalg.norm(fine_tune.vectors, axis=1)
    dots = np.einsum("bd,bd->b", shift, fine_tune.vectors)
    return [float(dot / length) if length > 0 else float("nan") for dot, length in zip(dots, lengths, strict=True)]
