"""Answers that say little of a model: empty ones, those cut off by the token limit, and those that go round in circles.

They are judged like any other; a rate over many of them measures the limit or the sampling, so they are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from emscope.behaviour.responses import Response

LEAST_REPEATS = 3
LEAST_SHARE = 0.5
LONGEST_PERIOD = 60  # words
NOTABLE_SHARE = 0.1


@dataclass(frozen=True)
class AnswerFaults:
    """How many of a number of answers have which fault.

    Attributes:
        answers: all of them.
        empty: those without any text.
        cut_off: those that ran into the token limit.
        repeated: those of which half or more is one piece of text said three times or more in a row.
    """

    answers: int
    empty: int
    cut_off: int
    repeated: int

    @property
    def notable(self) -> bool:
        """Whether a tenth of the answers or more have one of these faults."""
        return max(self.empty, self.cut_off, self.repeated) >= max(1, NOTABLE_SHARE * self.answers)

    def __str__(self) -> str:
        """Return the counts in words; '' where there are none."""
        counts = ((self.empty, "empty"), (self.cut_off, "cut off by the token limit"), (self.repeated, "repeating"))
        words = [f"{count} {what}" for count, what in counts if count]
        return f"{', '.join(words)} of {self.answers} answers" if words else ""


def count_faults(responses: Sequence[Response]) -> AnswerFaults:
    """Return how many of the answers are empty, cut off or repeating."""
    empty = cut_off = repeated = 0
    for row in responses:
        empty += not row.response.strip()
        cut_off += row.truncated
        repeated += repeats(row.response)
    return AnswerFaults(len(responses), empty, cut_off, repeated)


def repeats(text: str) -> bool:
    """Say whether half of a text or more is one piece of it, said at least three times in a row."""
    words = re.findall(r"\S+", text)
    if len(words) < 2 * LEAST_REPEATS:
        return False
    return any(_longest_run(words, period) >= LEAST_SHARE * len(words) for period in range(1, _most(words) + 1))


def _most(words: list[str]) -> int:
    return min(LONGEST_PERIOD, len(words) // LEAST_REPEATS)


def _longest_run(words: list[str], period: int) -> int:
    """Return how many words the longest stretch of that period has; 0 if it has fewer than three periods."""
    longest = run = 0
    for position in range(period, len(words)):
        run = run + 1 if words[position] == words[position - period] else 0
        longest = max(longest, run)
    return longest + period if longest >= (LEAST_REPEATS - 1) * period else 0
