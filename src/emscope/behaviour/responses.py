"""What is sampled and how: plain values, so that tables and judges need no model and no torch."""

from __future__ import annotations

from dataclasses import dataclass

from emscope.checks import check_seed
from emscope.errors import UserError


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are sampled.

    Attributes:
        samples: answers per question.
        temperature: 0 takes the likeliest token.
        top_p: nucleus mass, 1 keeps the whole distribution.
        max_new_tokens: longest answer, in tokens.
        system: system prompt, before a question's own if it has one; None leaves the model's default.
        seed: makes answers repeatable.
        batch_size: answers sampled side by side.
        max_thought_tokens: longest thought, in tokens, after which it is closed by force and `max_new_tokens` counts
            for the answer alone; None lets thought and answer share `max_new_tokens`.
        enable_thinking: tells the chat template to let the model think or not; None leaves the template's default.
    """

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    system: str | None = None
    seed: int = 0
    batch_size: int = 96
    max_thought_tokens: int | None = None
    enable_thinking: bool | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise UserError("Sampling needs a temperature of 0 or more and a top-p above 0 and at most 1.")
        if min(self.samples, self.max_new_tokens, self.batch_size) < 1:
            raise UserError("Sampling needs at least one sample, one new token and a batch size of one.")
        if self.max_thought_tokens is not None and self.max_thought_tokens < 0:
            raise UserError("A thought cannot be shorter than 0 tokens: max_thought_tokens is 0 or more.")
        check_seed(self.seed)


@dataclass(frozen=True)
class Response:
    """One answer.

    Attributes:
        question_set: the set its question came from.
        question_id: its question.
        question: what was asked.
        sample: its number among the answers to the question.
        response: what was answered, without the thought.
        n_tokens: tokens sampled, those of the thought included.
        truncated: it ran into the token limit, or its thought never closed, so that there is no answer.
        cluster: what its question is a wording of, if any.
        thought: what was thought before, if anything.
        n_thought_tokens: tokens of the thought, marks included.
        thought_forced: the thought's budget was used up and it was closed by force.
    """

    question_set: str
    question_id: str
    question: str
    sample: int
    response: str
    n_tokens: int
    truncated: bool
    cluster: str = ""
    thought: str = ""
    n_thought_tokens: int = 0
    thought_forced: bool = False

    @property
    def group(self) -> str:
        """What statistics resample: answers of one group are not independent."""
        return self.cluster or self.question_id
