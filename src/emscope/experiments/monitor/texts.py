"""Texts with a score for each token: answers of the run's organisms, and the user's questions and conversations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emscope.behaviour.questions import Question, load_question_sets
from emscope.behaviour.tables import JudgedResponse, read_responses
from emscope.errors import UserError
from emscope.experiments.monitor.answers import Monitor, ScoredAnswers, monitored, new_answers, spoken_answers
from emscope.experiments.monitor.result import ScoredText, ScoredTurn
from emscope.organisms.chat import Message, messages_of
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.datasets import read_conversations
from emscope.pipeline.lab import CONTROL, Lab
from emscope.pipeline.preflight import check_questions
from emscope.residual.monitor import SpokenChat, smoothed, spoken_chat, token_projections
from emscope.tabular import read_rows


def users_conversations(name: str) -> list[list[Message]]:
    """Return the conversations of a file, which may be a table of questions and answers; none where none is named.

    Raises:
        UserError: a file that holds none, or a bad row, by its line.
    """
    if not name:
        return []
    path = Path(name).expanduser()
    if is_table_of_answers(path):
        return [messages_of(row.question, row.response) for row in read_responses(path)]
    conversations = list(read_conversations(path))
    if not conversations:
        raise UserError(f"{name} holds no conversations.")
    return conversations


def is_table_of_answers(path: Path) -> bool:
    """Say whether a file's rows are questions and answers, as `generate` writes them, not conversations."""
    rows = read_rows(path)
    return bool(rows) and "question" in rows[0][1] and "messages" not in rows[0][1]


def users_questions(lab: Lab, names: Sequence[str]) -> list[Question]:
    """Return the questions of sets or files, tried with the base's template.

    Raises:
        UserError: a question does not fit, or has a system prompt of its own: its answer would be read without it.
    """
    questions = load_question_sets(names)
    for question in questions:
        if question.system:
            raise UserError(
                "monitor --ask asks questions without system prompts of their own: leave these out of the file."
            )
    check_questions(lab, questions)
    return questions


def run_texts(lab: Lab, monitor: Monitor, answers: ScoredAnswers, n: int, window: int) -> list[ScoredText]:
    """Return answers to `n` questions, from the highest to the lowest mean score, each with the control's beside it."""
    shown = answers.at(_spread_by_score(answers, n))
    texts = _texts(shown, window)
    if CONTROL not in lab.names or not texts:
        return texts

    order = [text.question_id for text in texts]
    firsts: dict[str, JudgedResponse] = {}
    for row in reversed(spoken_answers(lab, CONTROL, set(order))):
        firsts[row.question_id] = row
    texts += _texts(monitored(lab, monitor, CONTROL, list(firsts.values())), window)
    return sorted(texts, key=lambda text: order.index(text.question_id))


def answered_texts(
    lab: Lab, monitor: Monitor, name: str, questions: Sequence[Question], window: int
) -> list[ScoredText]:
    """Let an organism answer questions once, and return its answers token by token."""
    if not questions:
        return []
    rows = new_answers(lab, name, questions, 1, lab.config.sampling.seed)
    return _texts(monitored(lab, monitor, name, rows), window)


def read_texts(
    lab: Lab, monitor: Monitor, name: str, conversations: Sequence[list[Message]], window: int
) -> list[ScoredText]:
    """Let an organism read conversations, and return them token by token."""
    if not conversations:
        return []
    organism = lab.organism(name)
    chats = [spoken_chat(organism.tokenizer, messages) for messages in conversations]
    say_spelled("conversations", [chat.spelled for chat in chats])
    projections = token_projections(organism, chats, monitor.vectors, monitor.block, name="conversations")

    texts = []
    for number, (chat, values) in enumerate(zip(chats, projections, strict=True), 1):
        turns = _turns(chat, monitor.scale.score(values), window)
        texts.append(ScoredText(name, f"row {number}", None, None, turns))
    return texts


def _spread_by_score(answers: ScoredAnswers, n: int) -> list[int]:
    """Return the numbers of answers spread evenly over the ranking by mean score, one a question, highest first.

    A question has the place of its lowest answer in the ranking, and is shown with its highest.
    """
    means = np.array([scores[:, 0].mean() for scores in answers.of_answers])
    highest: dict[str, int] = {}
    for number in np.argsort(-means, kind="stable")[::-1].tolist():
        highest[answers.rows[number].question_id] = number

    ranked = list(highest.values())[::-1]
    n = min(n, len(ranked))
    return [ranked[round(step * (len(ranked) - 1) / max(n - 1, 1))] for step in range(n)]


def _texts(answers: ScoredAnswers, window: int) -> list[ScoredText]:
    texts = []
    for row, chat, scores in zip(answers.rows, answers.chats, answers.scores, strict=True):
        turns = _turns(chat, scores, window)
        texts.append(ScoredText(row.organism, row.question_id, row.aligned, row.coherent, turns))
    return texts


def _turns(chat: SpokenChat, scores: np.ndarray, window: int) -> list[ScoredTurn]:
    """Return each turn's pieces and their smoothed scores along the contrast direction; system prompts are left out."""
    turns = []
    for turn in chat.turns:
        if turn.role != "system":
            averaged = smoothed(scores[turn.positions, 0], window)
            turns.append(ScoredTurn(turn.role, turn.pieces, [round(value, 3) for value in averaged.tolist()]))
    return turns
