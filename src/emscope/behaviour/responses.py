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
    """

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    system: str | None = None
    seed: int = 0
    batch_size: int = 96

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError("Sampling needs a temperature of 0 or more and a top-p above 0 and at most 1.")
        if min(self.samples, self.max_new_tokens, self.batch_size) < 1:
            raise UserError("Sampling needs at least one sample, one new token and a batch size of one.")
        check_seed(self.seed)


@dataclass(frozen=True)
class Response:
    """One answer: `truncated` when it ran into the token limit, `cluster` what its question is a wording of, if any."""

    question_set: str
    question_id: str
    question: str
    sample: int
    response: str
    n_tokens: int
    truncated: bool
    cluster: str = ""

    @property
    def group(self) -> str:
        """What statistics resample: answers of one group are not independent."""
        return self.cluster or self.question_id
