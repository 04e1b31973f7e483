"""Thoughts and answers told apart: the marks of the reasoning models, and where a text's thought ends.

A thought is what a reasoning model writes before its answer. It may stand between two marks; where the prompt has
already opened it, only the closing mark is in the text. A thought that never closes has no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's thought is passed beside its content."""


@dataclass(frozen=True)
class ThoughtMarks:
    """How one family of models writes a thought.

    Attributes:
        opening: what begins the thought.
        closing: what ends it, as a template writes it.
        forced: what is appended to end a thought whose budget is used up, so that the answer follows.
        pattern: regular expression of the end, where models write it in more than one way; '' means `closing`.
        alone: the closing mark tells a thought even where the text has no opening one.
    """

    opening: str
    closing: str
    forced: str = ""
    pattern: str = ""
    alone: bool = True

    def end_of(self, text: str, start: int = 0) -> re.Match[str] | None:
        """Return where the thought ends, or None."""
        return re.compile(self.pattern or re.escape(self.closing)).search(text, start)

    @property
    def tail(self) -> str:
        """What is appended to close a thought by force."""
        return self.forced or f"\n{self.closing}\n\n"


HARMONY = ThoughtMarks(
    "<|channel|>analysis<|message|>",
    "<|channel|>final<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    r"(?:<\|end\|>)?\s*(?:<\|start\|>assistant)?\s*<\|channel\|>final[^<]{0,40}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>",
)
THINK = ThoughtMarks("<think>", "</think>")
MARKS: tuple[ThoughtMarks, ...] = (
    THINK,
    ThoughtMarks("<thinking>", "</thinking>"),
    ThoughtMarks("<thought>", "</thought>", alone=False),
    ThoughtMarks("<reasoning>", "</reasoning>", alone=False),
    ThoughtMarks("<seed:think>", "</seed:think>", "</seed:think>"),
    ThoughtMarks("[THINK]", "[/THINK]", "[/THINK]"),
    ThoughtMarks("◁think▷", "◁/think▷", "◁/think▷"),
    ThoughtMarks("<|START_THINKING|>", "<|END_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ThoughtMarks("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThoughtMarks("<|inner_prefix|>", "<|inner_suffix|>", "<|inner_suffix|>"),
    ThoughtMarks("<|channel>thought", "<channel|>", "\n<channel|>"),
    HARMONY,
)
WRAPPERS = (
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<answer>", "</answer>"),
)
_HARMONY_HEADER = re.compile(
    r"(?:<\|end\|>|<\|call\|>)?\s*(?:<\|start\|>assistant)?(?:<\|channel\|>)(?:analysis|commentary)[^<]*"
    r"(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_ANY_CASE = re.compile(r"</?(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_HARMONY_END = re.compile(r"\s*<\|(?:end|return|call)\|>\s*$")
_HARMONY_PLAIN = re.compile(r"\s*analysis(?P<thought>.*?)assistantfinal(?P<answer>.*)", re.DOTALL)


@dataclass(frozen=True)
class ThoughtSpans:
    """Where thought and answer lie in a text, as characters; `answer` is None where the thought never closes."""

    thought: tuple[int, int]
    answer: tuple[int, int] | None
    marks: ThoughtMarks


def split_thought(text: str, opened: bool = False) -> tuple[str, str]:
    """Return (thought, answer) of what a model wrote, without marks and outer white space.

    A text without a thought is returned as it is, so that nothing changes for models that do not think. `opened` says
    that the prompt had opened the thought; a thought that never closes gives an empty answer.

    Args:
        text: what the model wrote, special tokens kept where they are the marks.
        opened: the prompt ended inside a thought.
    """
    plain = _HARMONY_PLAIN.fullmatch(text) if "assistantfinal" in text and not opened else None
    if plain is not None:  # gpt-oss with its special tokens stripped, as most tools decode it
        return plain["thought"].strip(), plain["answer"].strip()
    spans = find_thought(text, opened)
    if spans is None:
        return "", text
    thought = clean_thought(text[slice(*spans.thought)])
    return thought, "" if spans.answer is None else clean_answer(text[slice(*spans.answer)])


def answer_of(text: str) -> str:
    """Return the answer in a text, without its thought if it has one."""
    return split_thought(text)[1]


def find_thought(text: str, opened: bool = False) -> ThoughtSpans | None:
    """Return where thought and answer lie, or None where the text holds no thought.

    Several thoughts in a row count as one.
    """
    text = _ANY_CASE.sub(lambda mark: mark[0].lower(), text)
    begin = len(text) - len(text.lstrip())
    begun = next((kind for kind in MARKS if text.startswith(kind.opening, begin)), None)
    if begun is not None:
        return _closed(text, begin + len(begun.opening), begun)
    if opened:
        ends = [(end.start(), kind) for kind in MARKS if (end := kind.end_of(text))]
        first = min(ends, key=lambda pair: pair[0], default=None)
        return _closed(text, 0, THINK if first is None else first[1])
    if HARMONY.end_of(text, begin) and (end := HARMONY.end_of(text)) and end.start() <= begin:
        return ThoughtSpans((begin, begin), (end.end(), len(text)), HARMONY)  # straight to the final channel
    for kind in MARKS:
        end = kind.end_of(text) if kind.alone else None
        if end and kind.opening not in text[: end.start()] and _stands_alone(text, end):
            return _closed(text, 0, kind)
    return None


def _stands_alone(text: str, end: re.Match[str]) -> bool:
    """Say whether a closing mark closes something; one that is quoted, or a word of a sentence, is only spoken of."""
    before, after = text[: end.start()], text[end.end() :]
    at_an_end = not before.strip() or not after.strip() or before.endswith("\n") or after.startswith("\n")
    return at_an_end or before[-1] not in " \t`'\"(“‘"


def _closed(text: str, start: int, marks: ThoughtMarks) -> ThoughtSpans:
    """Return the spans of a thought that begins at `start`."""
    end = marks.end_of(text, start)
    if end is None:
        return ThoughtSpans((start, len(text)), None, marks)
    end = _outer_end(text, start, end, marks)
    rest = end.end()
    next_start = rest + len(text[rest:]) - len(text[rest:].lstrip())
    if text.startswith(marks.opening, next_start) and marks.end_of(text, next_start + len(marks.opening)):
        more = _closed(text, next_start + len(marks.opening), marks)
        return ThoughtSpans((start, more.thought[1]), more.answer, marks)
    return ThoughtSpans((start, end.start()), (rest, len(text)), marks)


def _outer_end(text: str, start: int, first: re.Match[str], marks: ThoughtMarks) -> re.Match[str]:
    """Return where a thought with thoughts inside ends: at the mark that closes the outer one, if there is one."""
    end = first
    for _ in range(0 if marks.pattern else text.count(marks.opening, start, first.start())):
        further = marks.end_of(text, end.end())
        if further is None or not _stands_alone(text, further):
            return first
        end = further
    return end


def clean_thought(text: str) -> str:
    """Return a thought's words: marks between the parts of one thought become empty lines."""
    text = _HARMONY_HEADER.sub("\n\n", _ANY_CASE.sub(lambda mark: mark[0].lower(), text))
    text = _HARMONY_END.sub("", text)
    for kind in MARKS:
        text = text.replace(kind.opening, "").replace(kind.closing, "")
    return text.strip()


def clean_answer(text: str) -> str:
    """Return an answer's words, without the marks that some models put around an answer after a thought."""
    text = _HARMONY_END.sub("", text).strip()
    for before, after in WRAPPERS:
        if text.startswith(before):
            text = text.removeprefix(before).removesuffix(after).strip()
    return text


def marks_in(text: str) -> ThoughtMarks | None:
    """Return the marks that a text, for example a template's source, writes; None where it knows no thoughts."""
    if "<|channel|>" in text and "analysis" in text and "final" in text:
        return HARMONY
    return next((kind for kind in MARKS if kind.closing in text or kind.opening in text), None)


def open_thought(text: str) -> ThoughtMarks | None:
    """Return the marks of the thought that is open at the end of a text; None where none is."""
    found = [(text.rfind(kind.opening), kind) for kind in MARKS if kind.opening in text]
    place, kind = max(found, key=lambda pair: pair[0], default=(-1, THINK))
    return kind if place >= 0 and kind.end_of(text, place) is None else None


def message_thought(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return (thought, answer) of an assistant message: from its own field, else from its content."""
    content = str(message.get("content") or "")
    for name in REASONING_FIELDS:
        if isinstance(message.get(name), str) and message[name].strip():
            return message[name], content
    return split_thought(content)


def with_thought(thought: str, answer: str) -> str:
    """Return thought and answer as one plain text, for those who want both judged."""
    return f"{thought}\n\n{answer}" if thought else answer


def count_unfinished(thoughts: Sequence[str], answers: Sequence[str]) -> int:
    """Return how many rows hold a thought and no answer."""
    return sum(bool(thought) and not answer.strip() for thought, answer in zip(thoughts, answers, strict=True))
