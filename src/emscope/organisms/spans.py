"""Where the words of each message lie in a rendered conversation, and what a template left out.

The conversation is rendered a second time with unique words in place of what the messages say. What stands around
those words is the template's own text; the real rendering must be that text with the messages in it. A search for a
message itself would find a short one in a role's name or in a template's own system prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from emscope.errors import UserError

Kind = Literal["thought", "text"]
Key = tuple[int, Kind]
Fill = Callable[[Mapping[Key, str]], str]
"""Renders the conversation, with the words of the given parts replaced."""


@dataclass(frozen=True)
class Part:
    """What one message says, or what an assistant thought before it said it.

    Attributes:
        turn: number of the message.
        kind: thought or text.
        role: the message's role.
        words: what it says.
    """

    turn: int
    kind: Kind
    role: str
    words: str

    @property
    def key(self) -> Key:
        """What the part is called."""
        return self.turn, self.kind

    def forms(self) -> Iterator[str]:
        """Yield the ways in which a template may print the words: white space at the ends may go, no more."""
        words = self.words
        stripped = (words.rstrip("\n"), words.lstrip("\n"), words.strip("\n"), words.rstrip(), words.lstrip())
        quoted = []
        if self.role == "tool":  # results of tools are printed as JSON by some templates
            quoted = [json.dumps(words, ensure_ascii=False)[1:-1], json.dumps(words)[1:-1]]
        yield from dict.fromkeys([words, *stripped, words.strip(), *quoted])


@dataclass(frozen=True)
class Located:
    """A rendered conversation and where its parts are.

    Attributes:
        text: the rendering.
        spans: first and last character of each part that was found; empty ones may be absent.
        cut: thoughts that the template leaves out.
    """

    text: str
    spans: dict[Key, tuple[int, int]]
    cut: list[Part] = field(default_factory=list)

    def end_before(self, turn: int) -> int:
        """Return where the last part before a turn ends."""
        ends = [span[1] for key, span in self.spans.items() if key[0] < turn]
        return max(ends, default=0)

    def start_after(self, turn: int) -> int:
        """Return where the first part after a turn starts."""
        starts = [span[0] for key, span in self.spans.items() if key[0] > turn]
        return min(starts, default=len(self.text))


def locate(fill: Fill, parts: Sequence[Part]) -> Located:
    """Render a conversation and find its parts.

    Raises:
        UserError: the template refuses the conversation, or drops, rewrites or moves what a message says.
    """
    text = fill({})
    places = _places(text, parts)
    try:
        skeleton = fill(places)
    except UserError:  # the template looks into what is said
        skeleton = ""
    spans = _fit(text, skeleton, parts, places) if skeleton else None
    if spans is None:
        spans = _one_by_one(fill, text, skeleton, parts, places)
    cut = [part for part in parts if part.kind == "thought" and part.key not in spans and part.words.strip()]
    found = Located(text, spans, cut)
    _check_complete(found, parts)
    _check_order(found, parts)
    return found


def _places(text: str, parts: Sequence[Part]) -> dict[Key, str]:
    """Return a word for each part that stands nowhere else."""
    stem = "Qj"
    while stem in text or any(stem in part.words for part in parts):
        stem += "jQ"
    return {part.key: f"{stem}{number}x" for number, part in enumerate(parts)}


def _fit(
    text: str, skeleton: str, parts: Sequence[Part], places: Mapping[Key, str]
) -> dict[Key, tuple[int, int]] | None:
    """Return the spans if the text is the skeleton with the parts' words in it, else None."""
    by_place = {places[part.key]: part for part in parts}
    if not by_place:
        return {}
    pieces = re.split(f"({'|'.join(sorted(map(re.escape, by_place), key=len, reverse=True))})", skeleton)
    if not text.startswith(pieces[0]):
        return None
    at = len(pieces[0])
    spans: dict[Key, tuple[int, int]] = {}
    for place, after in zip(pieces[1::2], pieces[2::2], strict=True):
        part = by_place[place]
        words = _printed_at(text, at, part, after)
        if words is None:
            return None
        spans.setdefault(part.key, (at, at + len(words)))
        if part.role == "assistant" and pieces.count(place) > 1:
            raise UserError("This model's chat template prints an assistant's message more than once.")
        at += len(words) + len(after)
    said = {part.key for part in parts if part.kind == "text" and part.words.strip()}
    return spans if at == len(text) and said <= spans.keys() else None


def _printed_at(text: str, at: int, part: Part, after: str) -> str | None:
    """Return the form of a part that stands at a place of a text, before what comes after it; None where none does."""
    for form in part.forms():
        if text.startswith(form + after, at):
            return form
    return None


def _one_by_one(
    fill: Fill, text: str, skeleton: str, parts: Sequence[Part], places: Mapping[Key, str]
) -> dict[Key, tuple[int, int]]:
    """Return the spans of parts whose words the template looks into, each found by replacing it alone."""
    spans: dict[Key, tuple[int, int]] = {}
    cursor = 0
    for part in parts:
        if not part.words.strip():
            continue
        span = _alone(fill, text, part, places[part.key])
        if span is None and part.kind == "text":
            span = _searched(text, part, cursor)
        if span is not None:
            spans[part.key], cursor = span, span[1]
    return spans


def _alone(fill: Fill, text: str, part: Part, place: str) -> tuple[int, int] | None:
    try:
        replaced = fill({part.key: place})
    except UserError:
        return None
    before, found, after = replaced.partition(place)
    if not found or not (text.startswith(before) and text.endswith(after)):
        return None
    end = len(text) - len(after)
    return (len(before), end) if text[len(before) : end] in part.forms() else None


def _searched(text: str, part: Part, cursor: int) -> tuple[int, int] | None:
    for form in part.forms():
        start = text.find(form, cursor)
        if start < 0:
            continue
        if part.role == "assistant" and text.count(form, cursor) > 1:
            raise UserError(
                f"This model's chat template changes with what is said, and the answer {_short(form)!r} stands more "
                "than once in the text it makes: answers cannot be told from prompts."
            )
        return start, start + len(form)
    return None


def _check_complete(found: Located, parts: Sequence[Part]) -> None:
    for part in parts:
        if part.kind == "thought" or part.key in found.spans or not part.words.strip():
            continue
        raise UserError(
            f"This model's chat template drops or rewrites {_named(part.role)}: {lost(part.words, found.text)!r} is "
            f"not in the text that it makes. {_advice(part.role)}"
        )


def _named(role: str) -> str:
    return f"{'an' if role[0] in 'aei' else 'a'} {role} message"


def _advice(role: str) -> str:
    if role == "system":
        return "Leave the system prompt out, or put its words into the user's message."
    return "Use a model or a tokenizer whose template keeps what is said."


def lost(words: str, text: str) -> str:
    """Return the first line of a message that is not in a text, or the message's beginning."""
    for line in map(str.strip, words.splitlines()):
        if line and line not in text:
            return _short(line)
    return _short(words.strip())


def _short(words: str) -> str:
    return words if len(words) <= 80 else words[:77] + "…"


def _check_order(found: Located, parts: Sequence[Part]) -> None:
    """Refuse a template that moves turns; a system prompt may be merged into a later one."""
    at = 0
    for part in parts:
        span = found.spans.get(part.key)
        if span is None or span[0] == span[1] or part.role in ("system", "developer"):
            continue
        if span[0] < at:
            raise UserError(
                "This model's chat template prints the messages in another order: "
                f"{_short(part.words)!r} stands too early."
            )
        at = span[1]
