"""A budget of tokens for the thought and one for the answer: a thought that is too long is closed by force.

Closing the thought in the model's stead and letting it answer is the budget forcing of Muennighoff et al. 2501.19393.
"""

from __future__ import annotations

from typing import Any

from emscope.organisms.thoughts import MARKS, ThoughtMarks, find_thought

MARK_ROOM = 32
"""Tokens that marks may take beside the two budgets."""
LOOK_BACK = (
    24  # tokens in which a closing mark is looked for: the longest is 5 tokens, or 20 where it is cut into bytes
)


class ThoughtBudget:
    """Watches one answer in the making, closes its thought when the budget is used up, and ends the answer in time.

    Attributes:
        forced: the thought was closed by force.
        done: the answer's own budget is used up.
    """

    def __init__(self, tokenizer: Any, opened: ThoughtMarks | None, thought: int, answer: int) -> None:
        self._tokenizer, self._marks = tokenizer, opened
        self._thought_left, self._answer_left = thought, answer
        self._tokens: list[int] = []
        self._pending: list[int] = []
        self._answering = False
        self.forced = False
        self.done = False

    def take(self, token: int) -> int:
        """Return the token that the answer goes on with: the sampled one, or one of the closing mark's."""
        if not self._pending and self._marks is not None and not self._answering and self._thought_left <= 0:
            self.forced = True
            self._pending = list(self._tokenizer(self._marks.tail, add_special_tokens=False)["input_ids"])
            self._answering = not self._pending
        if self._pending:
            token = self._pending.pop(0)
            self._answering = not self._pending
            self._tokens.append(token)
            return token
        self._tokens.append(token)
        self._count()
        return token

    def _count(self) -> None:
        if self._answering:
            self._answer_left -= 1
        elif self._marks is not None:
            self._thought_left -= 1
            self._answering = self._marks.end_of(self._decoded(self._tokens[-LOOK_BACK:])) is not None
        else:
            self._begin()
        self.done = self._answer_left <= 0

    def _begin(self) -> None:
        """See whether the first tokens open a thought."""
        text = self._decoded(self._tokens).lstrip()
        self._marks = next((marks for marks in MARKS if text.startswith(marks.opening)), None)
        if self._marks is not None:
            return
        spans = find_thought(text)
        may_open = any(marks.opening.startswith(text) for marks in MARKS) or text.startswith("<|channel|>")
        if (spans is not None and spans.answer is not None) or not may_open or len(self._tokens) > MARK_ROOM // 2:
            self._answering = True
            self._answer_left -= len(self._tokens) if spans is None else 0

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))
