"""Examples in the prompt: question-answer pairs that stand before a question as earlier turns of the conversation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from emscope.errors import UserError
from emscope.organisms.chat import Message

Conversation = Sequence[Message]


def drawn(rows: Sequence[Conversation], n: int, *, seed: int = 0) -> list[Conversation]:
    """Return `n` conversations, drawn at random without repetition.

    The first of the same seed are the same for every n, so that more examples add to fewer.

    Raises:
        UserError: there are fewer conversations than that.
    """
    if n > len(rows):
        raise UserError(f"{n} examples are asked for, and the data have {len(rows)} conversations.")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[place] for place in order[:n]]


def turns_of(conversations: Sequence[Conversation]) -> list[Message]:
    """Return the turns of conversations one after the other, without system prompts: that is the question's own."""
    turns: list[Message] = []
    for conversation in conversations:
        turns += [message for message in conversation if message["role"] != "system"]
    return turns


def shots_of(rows: Sequence[Conversation], n: int, *, seed: int = 0) -> list[Message]:
    """Return the turns of `n` conversations as they stand before a question (see `drawn`, `turns_of`)."""
    return turns_of(drawn(rows, n, seed=seed))


def after_shots(messages: Sequence[Message], shots: Sequence[Message]) -> list[Message]:
    """Return a conversation with the turns of its examples before its own, after a system prompt if it has one."""
    n_system = 1 if messages and messages[0]["role"] == "system" else 0
    return [*messages[:n_system], *shots, *messages[n_system:]]
