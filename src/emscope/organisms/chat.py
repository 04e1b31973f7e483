"""Chat text to tokens: prompts, whole conversations, and which of their tokens are answers.

Spans come from character offsets. A count of the prefix's own tokens is wrong wherever a byte pair merges across the
boundary, so it is never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from emscope.errors import UserError

Message = dict[str, Any]
IGNORED = -100


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of a conversation and which of them an assistant wrote (its end-of-turn token included)."""

    ids: list[int]
    is_answer: list[bool]

    @cached_property
    def labels(self) -> list[int]:
        """Training labels: the id where an assistant wrote it, else -100."""
        return [token if mine else IGNORED for token, mine in zip(self.ids, self.is_answer, strict=True)]

    @cached_property
    def answer_positions(self) -> np.ndarray:
        """Positions of the answer tokens, int64."""
        return np.flatnonzero(self.is_answer)


def messages_of(prompt: str, answer: str | None = None, system: str | None = None) -> list[Message]:
    """Return a one-turn conversation."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def render(tokenizer: Any, messages: list[Message], *, add_generation_prompt: bool = False) -> str:
    """Return the chat template's text.

    Raises:
        UserError: the tokenizer has no chat template, or the template refuses these messages.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "This model's tokenizer has no chat template: emscope studies chat models; name an instruct one."
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except Exception as error:  # jinja2 raises many kinds, all of them about these messages
        raise UserError(f"The model's chat template refuses this conversation ({error}).") from error


def encode_prompt(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Return the token ids of a conversation that ends where the assistant starts to answer."""
    text = render(tokenizer, messages, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_chat(tokenizer: Any, messages: list[Message]) -> EncodedChat:
    """Return the tokens of a whole conversation with the assistant's tokens marked.

    Raises:
        UserError: no assistant turn, or a template that rewrites earlier turns.
    """
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise UserError("This conversation has no assistant turn, so there is nothing to train on or to read.")
    text = render(tokenizer, messages)
    spans = [_span(tokenizer, messages, turn, text) for turn in turns]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    is_answer = [any(start <= first and last <= end for start, end in spans) for first, last in offsets]
    return EncodedChat(list(encoded["input_ids"]), is_answer)


def _span(tokenizer: Any, messages: list[Message], turn: int, text: str) -> tuple[int, int]:
    """Return the characters of an assistant turn: its content and the end-of-turn mark, not the newline after it."""
    prefix = render(tokenizer, messages[:turn], add_generation_prompt=True)
    whole = render(tokenizer, messages[: turn + 1])
    if not (text.startswith(prefix) and text.startswith(whole) and len(prefix) < len(whole)):
        raise UserError("This model's chat template rewrites earlier turns, so answers cannot be told from prompts.")
    return len(prefix), len(whole.rstrip())
