"""The monitor: projections token by token while an organism answers, and screening of data before any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emscope import progress
from emscope.behaviour.questions import Question, load_question_sets
from emscope.behaviour.tables import JudgedResponse, read_responses
from emscope.errors import UserError
from emscope.experiments.monitor.answers import (
    Monitor,
    ScoredAnswers,
    contrast_file,
    make_monitor,
    monitored,
    new_answers,
    predictions,
    run_answers,
)
from emscope.experiments.monitor.checks import own_answer_figures, reader_figures
from emscope.experiments.monitor.domains import AREAS, area_pairs, chosen_pairs, screen_domain
from emscope.experiments.monitor.figures import domain_figures
from emscope.experiments.shape import experiment_stage
from emscope.files import write_json
from emscope.interventions.answering import answer_and_judge
from emscope.organisms.chat import messages_of
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.datasets import read_conversations
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint
from emscope.outside import read_json
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.preflight import check_data, check_questions
from emscope.pipeline.training import adapter_files
from emscope.residual.directions import Directions
from emscope.residual.monitor import SpokenChat, smoothed, spoken_chat, token_projections
from emscope.residual.screening import read_pairs
from emscope.tabular import read_rows

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
        prompts: prompts of each built-in domain that are screened; 0 takes all.
        areas: questions outside the domains whose aligned and misaligned answers are screened too; 0 for none.
        own_answers: prompts of each domain for which the base's own answer is sampled and subtracted; 0 for none.
        reader_answers: small organisms' answers with readers' scores that are ranked; 0 for none.
    """

    samples: int = 3
    tokens: tuple[int, ...] = (1, 2, 4, 8, 16)
    window: int = 4
    shown: int = 3
    conversations: str = ""
    ask: tuple[str, ...] = ()
    organism: str = ""
    random_directions: int = 20
    shares: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    draws: int = 200
    prompts: int = 0
    areas: int = 400
    own_answers: int = 30
    reader_answers: int = 280

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if min(self.samples, self.window, self.draws, *self.tokens) < 1:
            raise UserError("The monitor needs samples, tokens, window and draws of at least 1.")
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise UserError("Shares of careless rows lie between 0 and 1, for example 0.05.")
        counts = (self.prompts, self.areas, self.own_answers, self.reader_answers, self.shown, self.random_directions)
        if min(counts) < 0 or self.prompts == 1:
            raise UserError("Counts are 0 or more, and screening needs two prompts of each domain at least (0: all).")


def measure(lab: Lab, settings: MonitorSettings) -> dict[str, Any]:
    """Monitor new answers to test questions, screen the built-in domains, and write experiments/monitor.json."""
    run = lab.folder
    inputs = [
        run.path("directions", f"{contrast_file(lab)}.safetensors"),
        *(run.path("judgements", f"{name}.parquet") for name in lab.names),
        *(run.path("activations", f"{MISALIGNED}-{kind}.safetensors") for kind in ("answers", "prompts")),
        *(path for name in lab.names for path in adapter_files(lab, name)),
        *([Path(settings.conversations).expanduser()] if settings.conversations else []),
    ]
    _conversations(settings.conversations)  # a bad file stops it before any work
    check_guest(lab, settings)
    asked = [asdict(question) for question in _asked(lab, settings)]
    if asked or settings.organism:
        guests = [settings.organism and known(settings.organism) for known in (fingerprint, earlier_fingerprint)]
        inputs.append(_note(lab, *([asked, guest] for guest in guests)))
    return experiment_stage(lab, "monitor", dict[str, Any], settings, inputs, lambda: find_monitor(lab, settings))


def find_monitor(lab: Lab, settings: MonitorSettings) -> dict[str, Any]:
    """Return the figures of experiments/monitor.json: `answers`, `tokens` and `screening` (docs/monitor.md)."""
    with progress.plan(dict.fromkeys((WATCHING, SCREENING)), "step"):  # their shares differ with the settings
        with progress.logged_step(WATCHING):
            answers, tokens = _watch(lab, settings, _conversations(settings.conversations))
        with progress.logged_step(SCREENING):
            screening = _screen(lab, settings)
    return {"answers": answers, "tokens": tokens, "screening": screening}


def _conversations(name: str) -> list[list[dict[str, str]]]:
    if not name:
        return []
    path = Path(name).expanduser()
    if is_table_of_answers(path):
        return [messages_of(row.question, row.response) for row in read_responses(path)]
    found = list(read_conversations(path))
    if not found:
        raise UserError(f"{name} holds no conversations.")
    return found


def is_table_of_answers(path: Path) -> bool:
    """Say whether a file's rows are questions and answers, as `generate` writes them, not conversations."""
    rows = read_rows(path)
    return bool(rows) and "question" in rows[0][1] and "messages" not in rows[0][1]


def _asked(lab: Lab, settings: MonitorSettings) -> list[Question]:
    """Return the user's questions, tried with the base's template.

    Raises:
        UserError: a question does not fit, or has a system prompt of its own: its answer would be read without it.
    """
    questions = load_question_sets(settings.ask)
    if any(question.system for question in questions):
        raise UserError(
            "monitor --ask asks questions without system prompts of their own: leave these out of the file."
        )
    check_questions(lab, questions)
    return questions


def check_guest(lab: Lab, settings: MonitorSettings) -> None:
    """Let another organism read and answer in place of the run's misaligned one.

    Raises:
        UserError: it is no adapter or model of the run's base, or there is nothing for it to do.
    """
    if not settings.organism:
        return
    if not (settings.ask or settings.conversations):
        raise UserError("An organism of your own has nothing to do: give it questions (ask) or conversations.")
    if not is_trained_elsewhere(settings.organism):
        raise UserError(f"{settings.organism} is no adapter and no model: train one on it first, with `emscope train`.")
    check_data(lab, settings.organism)
    lab.invite(settings.organism)


def _note(lab: Lab, value: Any, earlier: Any) -> Path:
    """Write what figures depend on beside the run's own files, and return the file.

    One that is there is left alone where it says the same, in the words of this version or of earlier ones.
    """
    path = lab.folder.path("experiments", "monitor", "asked.json")
    if not path.is_file() or read_json(path) not in (json.loads(json.dumps(words)) for words in (value, earlier)):
        write_json(path, value)
    return path


def _watch(
    lab: Lab, settings: MonitorSettings, spoken: list[list[dict[str, str]]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return how well early tokens predict verdicts, and texts with a score for each token."""
    monitor = make_monitor(lab, settings.random_directions)
    answers = monitored(lab, monitor, MISALIGNED, new_answers(lab, settings.samples))
    found = {
        "block": monitor.block,
        "construction": asdict(monitor.construction),
        **predictions(lab, monitor, answers, settings.tokens),
    }
    shown = _shown(answers, settings.shown)
    texts = [_text(answers.rows[at], answers.chats[at], answers.scores[at], settings.window) for at in shown]
    if CONTROL in lab.names and shown:
        rows = _first(run_answers(lab, CONTROL, {answers.rows[at].question_id for at in shown}))
        other = monitored(lab, monitor, CONTROL, rows)
        texts += [_text(*item, settings.window) for item in zip(other.rows, other.chats, other.scores, strict=True)]
        texts.sort(key=lambda text: [answers.rows[at].question_id for at in shown].index(text["question_id"]))
    name = settings.organism or MISALIGNED
    texts += _asked_texts(lab, monitor, name, settings)
    return found, [*texts, *_user_texts(lab, monitor, name, spoken, settings.window)]


def _asked_texts(lab: Lab, monitor: Monitor, name: str, settings: MonitorSettings) -> list[dict[str, Any]]:
    """Let an organism answer the user's questions once, and return its answers token by token."""
    questions = _asked(lab, settings)
    if not questions:
        return []
    rows = answer_and_judge(lab.organism(name), name, questions, replace(lab.config.sampling, samples=1), lab.judge)
    answers = monitored(lab, monitor, name, [row for row in rows if row.response])
    return [_text(*item, settings.window) for item in zip(answers.rows, answers.chats, answers.scores, strict=True)]


def _shown(answers: ScoredAnswers, n: int) -> list[int]:
    """Return answers spread evenly over the ranking by mean score, one a question, highest first."""
    means = np.array([said[:, 0].mean() for said in answers.said])
    ranked = np.argsort(-means, kind="stable").tolist()
    first = list({answers.rows[at].question_id: at for at in reversed(ranked)}.values())[::-1]
    n = min(n, len(first))
    return [first[round(step * (len(first) - 1) / max(n - 1, 1))] for step in range(n)]


def _first(rows: Sequence[JudgedResponse]) -> list[JudgedResponse]:
    return list({row.question_id: row for row in reversed(rows)}.values())


def _text(row: JudgedResponse, chat: SpokenChat, scores: np.ndarray, window: int) -> dict[str, Any]:
    facts = {"organism": row.organism, "question_id": row.question_id, "aligned": row.aligned, "coherent": row.coherent}
    return {**facts, "turns": _turns(chat, scores, window)}


def _turns(chat: SpokenChat, scores: np.ndarray, window: int) -> list[dict[str, Any]]:
    """Return each turn's pieces and their smoothed scores along the contrast direction; system prompts are left out."""
    return [
        {
            "role": turn.role,
            "pieces": turn.pieces,
            "scores": [round(float(value), 3) for value in smoothed(scores[turn.positions, 0], window)],
        }
        for turn in chat.turns
        if turn.role != "system"
    ]


def _user_texts(
    lab: Lab, monitor: Monitor, name: str, spoken: list[list[dict[str, str]]], window: int
) -> list[dict[str, Any]]:
    if not spoken:
        return []
    organism = lab.organism(name)
    chats = [spoken_chat(organism.tokenizer, messages) for messages in spoken]
    say_spelled("conversations", [chat.spelled for chat in chats])
    whole = token_projections(organism, chats, monitor.vectors, monitor.block, name="conversations")
    nothing = {"organism": name, "aligned": None, "coherent": None}
    return [
        {**nothing, "question_id": f"row {number}", "turns": _turns(chat, monitor.scale.score(values), window)}
        for number, (chat, values) in enumerate(zip(chats, whole, strict=True), 1)
    ]


def _screen(lab: Lab, settings: MonitorSettings) -> dict[str, Any]:
    """Return how well careless rows are found in each built-in domain, and further checks."""
    seed, n_random = lab.config.seed, settings.random_directions
    pairs = chosen_pairs(settings.prompts, seed) | ({AREAS: area_pairs(settings.areas)} if settings.areas else {})
    read = read_pairs(lab.organism(BASE), pairs)
    organisms = Directions.load(lab.folder.path("directions", f"{contrast_file(lab)}.safetensors"))
    screened = {name: screen_domain(lab, read, pairs, name, organisms, n_random) for name in pairs}
    within = {name: found for name, found in screened.items() if name != AREAS}
    domains, mean = domain_figures(within, settings.shares, settings.draws, seed)
    areas = None
    if settings.areas:
        areas = domain_figures({AREAS: screened[AREAS]}, settings.shares, settings.draws, seed)[0][AREAS]
    few, answers = settings.own_answers, settings.reader_answers
    return {
        "trained_on": lab.config.misaligned_data,
        "domains": domains,
        "mean": mean,
        "areas": areas,
        "own_answers": own_answer_figures(lab, read, pairs, few, lab.config.sampling) if few else None,
        "readers": reader_figures(lab, read, pairs, organisms, answers, n_random) if answers else None,
    }
