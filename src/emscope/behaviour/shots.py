"""Examples in the prompt: question-answer pairs that stand before a question as earlier turns of the conversation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from emscope.errors import UserError
from emscope.organisms.chat import Message


def shots_of(rows: Sequence[Sequence[Message]], n: int, *, seed: int = 0) -> list[Message]:
    """Return the turns of `n` conversations, drawn at random without repetition, one after the other.

    System prompts are left out: a conversation has one, and it is the question's. The first draws of the same seed are
    the same for every n, so that more examples add to fewer.

    Raises:
        UserError: there are fewer conversations than that.
    """
    if n > len(rows):
        raise UserError(f"{n} examples are asked for, and the data have {len(rows)} conversations.")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    turns: list[Message] = []
    for place in order[:n]:
        for message in rows[place]:
            if message["role"] != "system":
                turns.append(message)
    return turns


def after_shots(messages: Sequence[Message], shots: Sequence[Message]) -> list[Message]:
    """Return a conversation with the turns of its examples before its own, after a system prompt if it has one."""
    n_system = 1 if messages and messages[0]["role"] == "system" else 0
    return [*messages[:n_system], *shots, *messages[n_system:]]
