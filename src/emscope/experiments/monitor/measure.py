"""The monitor: projections token by token while an organism answers, and screening of data before any training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.errors import UserError
from emscope.experiments.monitor.answers import make_monitor, monitor_answers, rank_answers
from emscope.experiments.monitor.checks import less_base_answers, reader_answers
from emscope.experiments.monitor.domains import AREAS, screen_domain, screened_pairs
from emscope.experiments.monitor.precision import mean_result, mix, rows_result
from emscope.experiments.monitor.result import MonitoredAnswers, MonitorResult, ScoredText, Screening
from emscope.experiments.monitor.texts import (
    answered_texts,
    read_texts,
    run_texts,
    users_conversations,
    users_questions,
)
from emscope.experiments.shape import experiment_stage, left_open
from emscope.files import write_json
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint
from emscope.outside import read_json
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, CORRECTING, MISALIGNED, Lab
from emscope.pipeline.preflight import check_data
from emscope.pipeline.training import adapter_files
from emscope.residual.screening import read_pairs

WATCHING, SCREENING = "answers token by token", "screening of data"
"""The steps of the experiment."""


@dataclass(frozen=True)
class MonitorSettings:
    """What is monitored and screened, and how much of it.

    Attributes:
        samples: new answers of the misaligned organism to each test question.
        tokens: after how many tokens of an answer its verdict is predicted.
        window: tokens that each shade of the map is averaged over, the token itself and those before it.
        shown: test questions whose answers are shown token by token.
        conversations: a file (.jsonl, .csv, .parquet) of conversations, or of questions and answers, that is read too.
        ask: question sets or files whose answers are shown token by token too.
        organism: who reads the conversations and answers these questions: the folder or hub id of an adapter or a whole
            model; the run's misaligned organism if not said.
        random_directions: random directions beside each direction.
        shares: shares of careless rows in the mixtures.
        draws: random mixtures for each share.
        prompts: prompts of each built-in domain that are screened; not said, all.
        areas: questions outside the domains whose aligned and misaligned answers are screened too; 0 for none.
        own_answers: prompts of each domain for which the base's own answer is sampled and subtracted; 0 for none.
        reader_answers: small organisms' answers with readers' scores that are ranked; 0 for none.
    """

    samples: int = 3
    tokens: tuple[int, ...] = (1, 2, 4, 8, 16)
    window: int = 4
    shown: int = 3
    conversations: str | None = left_open("")
    ask: tuple[str, ...] = ()
    organism: str | None = left_open("")
    random_directions: int = 20
    shares: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    draws: int = 200
    prompts: int | None = left_open(0)
    areas: int = 400
    own_answers: int = 30
    reader_answers: int = 280

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if min(self.samples, self.window, self.draws, *self.tokens) < 1:
            raise UserError("The monitor needs samples, tokens, window and draws of at least 1.")
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise UserError("Shares of careless rows lie between 0 and 1, for example 0.05.")
        prompts = 2 if self.prompts is None else self.prompts
        counts = (prompts - 2, self.areas, self.own_answers, self.reader_answers, self.shown, self.random_directions)
        if min(counts) < 0:
            raise UserError("Counts are 0 or more, and screening needs two prompts of each domain at least.")
        if self.organism and not (self.ask or self.conversations):
            raise UserError("An organism of your own has nothing to do: give it questions (ask) or conversations.")


def measure(lab: Lab, settings: MonitorSettings) -> MonitorResult:
    """Monitor new answers to test questions and screen the built-in domains; in experiments/monitor.json.

    Raises:
        UserError: questions, conversations or an organism of the user's that do not fit the run, before any work.
    """
    users_conversations(settings.conversations or "")
    invite_guest(lab, settings.organism or "")
    questions = users_questions(lab, settings.ask)

    inputs = _inputs(lab, settings)
    if questions or settings.organism:
        inputs.append(_note_of(lab, questions, settings.organism or ""))
    return experiment_stage(lab, "monitor", MonitorResult, settings, inputs, partial(monitor_and_screen, lab, settings))


def _inputs(lab: Lab, settings: MonitorSettings) -> list[Path]:
    """Return the files that the figures are made of."""
    prompts, answers = lab.activation_files(MISALIGNED)
    inputs = [lab.direction_file(f"{lab.contrast}-{CORRECTING}")]
    inputs += [lab.judgements_file(name) for name in lab.names]
    inputs += [answers, prompts]
    for name in lab.names:
        inputs += adapter_files(lab, name)
    if settings.conversations:
        inputs.append(Path(settings.conversations).expanduser())
    return inputs


def _note_of(lab: Lab, questions: list[Question], organism: str) -> Path:
    """Note what figures depend on beside the run's files and the settings, and return the note's file.

    A note that is there is left alone where it says the same, in the words of this version or of earlier ones.
    """
    path = lab.folder.path("experiments", "monitor", "asked.json")
    asked = [asdict(question) for question in questions]
    note: list[Any] = [asked, organism and fingerprint(organism)]
    earlier: list[Any] = [asked, organism and earlier_fingerprint(organism)]
    if not path.is_file() or read_json(path) not in (_as_read(note), _as_read(earlier)):
        write_json(path, note)
    return path


def _as_read(value: Any) -> Any:
    """Return a value as it is after it was written as JSON."""
    return json.loads(json.dumps(value))


def invite_guest(lab: Lab, organism: str) -> None:
    """Let another organism read and answer in place of the run's misaligned one; '' is none.

    Raises:
        UserError: it is no adapter or model of the run's base.
    """
    if not organism:
        return
    if not is_trained_elsewhere(organism):
        raise UserError(f"{organism} is no adapter and no model: train one on it first, with `emscope train`.")
    check_data(lab, organism)
    lab.invite(organism)


def monitor_and_screen(lab: Lab, settings: MonitorSettings) -> MonitorResult:
    """Do both steps of the experiment."""
    with progress.plan(dict.fromkeys((WATCHING, SCREENING)), "step"):  # their shares differ with the settings
        with progress.logged_step(WATCHING):
            answers, texts = _watch(lab, settings)
        with progress.logged_step(SCREENING):
            screening = _screen(lab, settings)
    return MonitorResult(answers, texts, screening)


def _watch(lab: Lab, settings: MonitorSettings) -> tuple[MonitoredAnswers, list[ScoredText]]:
    """Return how well early tokens predict verdicts, and texts with a score for each token."""
    monitor = make_monitor(lab, settings.random_directions)
    answers = monitor_answers(lab, monitor, settings.samples)
    rankings = rank_answers(lab, monitor, answers, settings.tokens)

    window, reader = settings.window, settings.organism or MISALIGNED
    texts = run_texts(lab, monitor, answers, settings.shown, window)
    texts += answered_texts(lab, monitor, reader, users_questions(lab, settings.ask), window)
    texts += read_texts(lab, monitor, reader, users_conversations(settings.conversations or ""), window)
    return rankings, texts


def _screen(lab: Lab, settings: MonitorSettings) -> Screening:
    """Return how well careless rows are found in each built-in domain, and further checks."""
    seed, n_random, organisms = lab.config.seed, settings.random_directions, lab.direction()
    pairs = screened_pairs(settings.prompts, settings.areas, seed)
    read = read_pairs(lab.organism(BASE), pairs)

    screened = {name: screen_domain(lab, read, pairs, name, organisms, n_random) for name in pairs}
    mixtures = {name: mix(rows, settings.shares, settings.draws, seed) for name, rows in screened.items()}
    results = {name: rows_result(rows, mixtures[name], seed) for name, rows in screened.items()}

    score_names = list(screened[next(iter(pairs))].scores)
    areas = results.pop(AREAS, None)
    mixtures.pop(AREAS, None)
    return Screening(
        trained_on=lab.config.misaligned_data,
        domains=results,
        mean=mean_result(score_names, list(mixtures.values())),
        areas=areas,
        own_answers=less_base_answers(lab, read, pairs, settings.own_answers),
        readers=reader_answers(lab, read, pairs, organisms, settings.reader_answers, n_random),
    )
