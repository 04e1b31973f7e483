"""Chat text to tokens: prompts, whole conversations, and which of their tokens are answers and which are thoughts.

Spans come from character offsets in the rendering of the whole conversation. A count of the prefix's own tokens is
wrong wherever a byte pair merges across the boundary, and templates print earlier turns otherwise than the last one, so
neither is used. What a template loses of a message is refused, with the words that were lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from emscope.errors import UserError
from emscope.organisms.control_tokens import ControlTokens, Span, Tokens, control_tokens, tokenise
from emscope.organisms.messages import Message, is_trained, messages_of, normalised
from emscope.organisms.spans import Key, Located, Part, locate, lost
from emscope.organisms.templates import leading_control_tokens, render, say_once, template_source
from emscope.organisms.thoughts import (
    MARKS,
    REASONING_FIELDS,
    THINK,
    ThoughtMarks,
    find_thought,
    marks_in,
    open_thought,
)
from emscope.outside import quoted

__all__ = [
    "IGNORED",
    "ChatPrompt",
    "EncodedChat",
    "Message",
    "check_chat",
    "encode_chat",
    "encode_prompt",
    "end_of_turn",
    "messages_of",
    "prepare_prompt",
    "render",
    "say_endings",
    "stop_ids",
]

IGNORED = -100


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of a conversation and which of them an assistant wrote (its end-of-turn token included).

    Attributes:
        ids: the tokens.
        is_answer: tokens an assistant wrote, thoughts included: what training learns.
        is_thought: those of them that are thought, marks included; none given means there is no thought.
        empty_thought: `is_thought` marks only what a template writes around a thought, and there is none.
        spelled: control tokens that the messages spell; they are among the tokens as plain text.
    """

    ids: list[int]
    is_answer: list[bool]
    is_thought: list[bool] = field(default_factory=list)
    empty_thought: bool = False
    spelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Let a chat without thoughts say so of every token."""
        if not self.is_thought:
            object.__setattr__(self, "is_thought", [False] * len(self.ids))

    @cached_property
    def labels(self) -> list[int]:
        """Training labels: the id where an assistant wrote it, else -100."""
        return [token if mine else IGNORED for token, mine in zip(self.ids, self.is_answer, strict=True)]

    @cached_property
    def answer_positions(self) -> np.ndarray:
        """Positions of what the assistant wrote, thoughts included, int64."""
        return np.flatnonzero(self.is_answer)

    @cached_property
    def thought_positions(self) -> np.ndarray:
        """Positions of the thoughts' tokens, int64."""
        return np.flatnonzero(self.is_thought)

    @cached_property
    def response_positions(self) -> np.ndarray:
        """Positions of the answers' tokens without the thoughts, int64."""
        return np.setdiff1d(self.answer_positions, self.thought_positions)

    def cut(self, n: int) -> EncodedChat:
        """Return the first `n` tokens."""
        return EncodedChat(self.ids[:n], self.is_answer[:n], self.is_thought[:n], self.empty_thought, self.spelled)


@dataclass(frozen=True)
class ChatPrompt:
    """Token ids that an assistant goes on from.

    Attributes:
        ids: the tokens.
        opened: the marks of the thought in which they end, if they do.
        spelled: control tokens that the messages spell; they are among the tokens as plain text.
    """

    ids: list[int]
    opened: ThoughtMarks | None = None
    spelled: tuple[str, ...] = ()


def encode_prompt(tokenizer: Any, messages: Sequence[Message], enable_thinking: bool | None = None) -> list[int]:
    """Return the token ids of a conversation that ends where the assistant starts to answer.

    Raises:
        UserError: see `prepare_prompt`.
    """
    return prepare_prompt(tokenizer, messages, enable_thinking).ids


def prepare_prompt(tokenizer: Any, messages: Sequence[Message], enable_thinking: bool | None = None) -> ChatPrompt:
    """Return a conversation that ends where the assistant starts to answer.

    Where its last message is the assistant's, that message is left open and the assistant goes on from its words.

    Raises:
        UserError: the template refuses the conversation, or drops or rewrites what a message says.
    """
    plain = normalised(messages)
    if plain and plain[-1]["role"] == "assistant":
        text, lead, outside = _continued(tokenizer, plain, enable_thinking)
    else:
        chat = _Chat(tokenizer, plain, enable_thinking, generation=True)
        text, outside = chat.located.text, chat.outside()
        lead = text[chat.located.end_before(len(plain)) :]
    tokens = _tokens(tokenizer, text, outside)
    return ChatPrompt(tokens.ids, open_thought(lead), tokens.spelled)


def encode_chat(tokenizer: Any, messages: Sequence[Message], enable_thinking: bool | None = None) -> EncodedChat:
    """Return the tokens of a whole conversation with the assistant's tokens marked, thoughts and answers apart.

    Raises:
        UserError: no assistant turn, or a template that drops or rewrites what a message says.
    """
    plain = normalised(messages)
    turns, trained = [], []
    for number, message in enumerate(plain):
        if message["role"] == "assistant":
            turns.append(number)
            if is_trained(message):
                trained.append(number)
    if not turns:
        raise UserError("This conversation has no assistant turn, so there is nothing to train on or to read.")
    if not trained:
        raise UserError("Every assistant turn of this conversation is marked as not to be trained on.")
    chat = _Chat(tokenizer, plain, enable_thinking)
    encoded = _encoded(chat, trained)
    if chat.unopened:
        say_once(
            "This model's chat template opens a thought in every prompt, but these answers have none: they are trained "
            "and read right after the assistant's header, as the template prints them."
        )
    return encoded


def _encoded(chat: _Chat, trained: Sequence[int]) -> EncodedChat:
    """Return the tokens of a conversation with the assistant's turns of the given numbers marked."""
    turns: list[Span] = []
    thoughts: list[Span] = []
    for start, answer, end in map(chat.span, trained):
        turns.append((start, end))
        if answer > start:
            thoughts.append((start, answer))

    tokens = _tokens(chat.tokenizer, chat.located.text, chat.outside())
    is_answer = _inside(tokens.offsets, turns)
    is_thought = _inside(tokens.offsets, thoughts)
    empty = not any((turn, "thought") in chat.located.spans for turn in trained)
    return EncodedChat(tokens.ids, is_answer, is_thought, any(is_thought) and empty, tokens.spelled)


def _inside(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Say of each token whether it lies within one of the spans."""
    inside = []
    for first, last in offsets:
        inside.append(any(start <= first and last <= end for start, end in spans))
    return inside


def _tokens(tokenizer: Any, text: str, outside: Sequence[Span]) -> Tokens:
    """Return the tokens of a rendered conversation, with no more than one BOS at the start."""
    tokens = tokenise(tokenizer, text, outside)
    ids, offsets = tokens.ids, tokens.offsets
    bos = tokenizer.bos_token_id
    n_bos = 0
    while bos is not None and n_bos < len(ids) and ids[n_bos] == bos:
        n_bos += 1
    if n_bos > 1:
        say_once(f"This model's chat template prints {tokenizer.bos_token!r} {n_bos} times: one is kept.")
        ids, offsets = ids[n_bos - 1 :], offsets[n_bos - 1 :]
    if n_bos == 0 and _adds_bos(tokenizer):
        say_once(
            f"This model's tokenizer begins texts with {tokenizer.bos_token!r}, but its chat template does not print "
            "it: conversations are read without it, as transformers reads them."
        )
    return Tokens(ids, offsets, tokens.spelled)


@lru_cache(maxsize=8)
def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]


class _Chat:
    """A conversation in the way its template takes it, and where its parts are."""

    def __init__(
        self, tokenizer: Any, messages: Sequence[Message], enable_thinking: bool | None, *, generation: bool = False
    ) -> None:
        self.tokenizer, self.enable_thinking, self.generation = tokenizer, enable_thinking, generation
        self.unopened = False
        self.n_asked = 0  # characters of the prompt, where the last thought was put after it
        self.turns = [_Turn(number, message) for number, message in enumerate(messages)]
        self.way, self.located = self._best()
        _check_tools(messages, self.located.text)
        if self.located.cut and not generation:
            self.located = self._with_last_thought() or self.located
        if self.located.cut:
            say_once(
                "This model's chat template leaves thoughts out of conversations, as reasoning models' do in earlier "
                "turns: they are neither trained nor read.",
                lost(self.located.cut[0].words, self.located.text),
            )

    def _best(self) -> tuple[str, Located]:
        """Return how the template takes thoughts, and the conversation: the first way in which it keeps any."""
        n_thoughts = sum(bool(turn.thought) for turn in self.turns)
        ways = ["given"]
        if n_thoughts:
            source = template_source(self.tokenizer)
            ways = ["field", "given"] if any(name in source for name in REASONING_FIELDS) else ["given", "inline"]
        ways_taken: list[tuple[str, Located]] = []
        refusal: UserError | None = None
        for way in ways:
            try:
                located = self._locate(self.turns, way, generation=self.generation)
            except UserError as error:
                refusal = refusal or error
                continue
            ways_taken.append((way, located))
            if len(located.cut) < n_thoughts or not n_thoughts:
                return way, located
        if not ways_taken:
            assert refusal is not None
            raise refusal
        return ways_taken[0]

    def _locate(self, turns: Sequence[_Turn], way: str, *, generation: bool) -> Located:
        return locate(lambda words: self._render(turns, way, words, generation=generation), _parts_of(turns))

    def _render(
        self, turns: Sequence[_Turn], way: str, words: Mapping[Key, str] | None = None, *, generation: bool = False
    ) -> str:
        marks = thought_marks(self.tokenizer)
        messages = [turn.message(way, words or {}, marks) for turn in turns]
        return render(self.tokenizer, messages, add_generation_prompt=generation, enable_thinking=self.enable_thinking)

    def _with_last_thought(self) -> Located | None:
        """Return the conversation with the last thought put where the prompt opens one; None if it opens none.

        Templates that open a thought in every prompt cut it from every answer; what was sampled from such a prompt is
        the prompt, the thought, its closing mark and the answer.
        """
        last = self.turns[-1]
        if not last.thought or not any(part.key == (last.number, "thought") for part in self.located.cut):
            return None
        before = self.turns[:-1]
        prompt = self._locate(before, self.way, generation=True)
        marks = open_thought(prompt.text[prompt.end_before(last.number) :])
        if marks is None or (last.number, "text") not in self.located.spans:
            return None
        first, end = self.located.spans[last.number, "text"]
        thought, answer, tail = last.thought.strip(), self.located.text[first:end], self.located.text[end:]
        start = self.n_asked = len(prompt.text)
        answer_start = start + len(thought) + len(marks.tail)
        spans = {**prompt.spans, (last.number, "thought"): (start, start + len(thought))}
        spans[last.number, "text"] = (answer_start, answer_start + len(answer))
        return Located(prompt.text + thought + marks.tail + answer + tail, spans, prompt.cut)

    def outside(self) -> list[Span]:
        """Return the characters of the rendering that are not the template's own.

        Where a message spells a control token, the conversation is rendered once more without what spells it: what
        differs is from outside too, such as names, arguments of tool calls, and copies of a message.

        Raises:
            UserError: the template writes other control tokens because of what a message spells.
        """
        spans = [span for span in self.located.spans.values() if span[0] < span[1]]
        control, text = control_tokens(self.tokenizer), self.located.text
        if not any(control.spelled_in(turn.fields) or control.spelled_in(turn.words) for turn in self.turns):
            return spans
        if not self.n_asked:
            return [*spans, *self._elsewhere(control, self.turns, text, spans, generation=self.generation)]
        before = [span for span in spans if span[1] <= self.n_asked]
        if control.spelled_in(self.turns[-1].fields):
            raise UserError("A tool call after a thought spells a control token of this model: take it out.")
        asked = self._elsewhere(control, self.turns[:-1], text[: self.n_asked], before, generation=True)
        return [*spans, *asked]

    def _elsewhere(
        self, control: ControlTokens, turns: Sequence[_Turn], text: str, spans: Sequence[Span], *, generation: bool
    ) -> list[Span]:
        """Return the characters of a rendering that change with what the messages spell of control tokens."""
        words = {part.key: control.defused(part.words) for part in _parts_of(turns)}
        others = [turn.with_fields(control.defused(turn.fields)) for turn in turns]
        try:
            defused = self._render(others, self.way, words, generation=generation)
        except UserError:
            defused = ""
        if len(defused) == len(text):
            return _differences(text, defused)
        if control.written_in(text, spans) != control.written_in(defused, []):
            raise UserError(
                "A message spells a control token of this model, and its chat template changes with it, so that the "
                "template's own cannot be told from the message's: take it out."
            )
        return []

    def span(self, number: int) -> tuple[int, int, int]:
        """Return the characters of an assistant's turn: where it begins, where its answer begins, where it ends.

        It begins where a prompt for it would end, so that what is trained is what would be sampled.
        """
        located, turn = self.located, self.turns[number]
        text, prompt = located.text, self._prompt_of(number)
        answer = located.spans.get((number, "text"))
        thought = located.spans.get((number, "thought"))
        before, after = located.end_before(number), located.start_after(number)
        if answer is None and prompt is None:
            raise UserError(
                "This model's chat template changes with what is said, so an empty answer cannot be told from its "
                "prompt."
            )
        answer = answer or (len(prompt or ""), len(prompt or ""))
        first = answer[0] if thought is None else thought[0]
        if prompt is not None and before <= len(prompt) <= first:
            start = len(prompt)
        else:
            start = first if thought is None else _last_opening(text, before, first)
            self.unopened |= thought is None and prompt is None and self._opens_thoughts()
        end = answer[1] + len(self._end_mark(turn, text[answer[1] : after], is_last=number == len(self.turns) - 1))
        has_thought = thought is not None or marks_in(text[start : answer[0]]) is not None
        return start, answer[0] if has_thought else start, end

    def _prompt_of(self, number: int) -> str | None:
        """Return the text that asks for a turn, if the conversation goes on from it."""
        if number == 0:
            return None
        try:
            prompt = self._render(self.turns[:number], self.way, generation=True)
        except UserError:  # a conversation that the template takes only as a whole
            return None
        return prompt if self.located.text.startswith(prompt) else None

    def _opens_thoughts(self) -> bool:
        return _opens_thoughts(self.tokenizer, template_source(self.tokenizer), self.enable_thinking)

    def _end_mark(self, turn: _Turn, literal: str, *, is_last: bool) -> str:
        """Return the end-of-turn mark at the beginning of what follows an answer, tool calls before it included."""
        calls = bool(turn.raw.get("tool_calls"))
        if is_last:
            run = "" if calls else leading_control_tokens(self.tokenizer, literal)
            return run or literal.rstrip()
        mark = end_of_turn(self.tokenizer)
        if calls:
            return self._calls(turn, literal, mark.strip())
        if not mark or literal.startswith(mark):
            return mark
        return leading_control_tokens(self.tokenizer, literal, many=False)

    def _calls(self, turn: _Turn, literal: str, mark: str) -> str:
        """Return the tool calls and the mark after them."""
        alone = self._render(self.turns[: turn.number + 1], self.way).rstrip()
        start = self.located.start_after(turn.number) - len(literal)
        if self.located.text.startswith(alone) and len(alone) > start:
            return self.located.text[start : len(alone)]
        place = literal.find(mark) if mark else -1
        if place < 0:
            raise UserError("This model's chat template ends a turn with tool calls in a way emscope does not know.")
        return literal[: place + len(mark)]


def _last_opening(text: str, before: int, first: int) -> int:
    """Return where the last mark that opens a thought stands between two places, the second one where none does."""
    places = [text.rfind(marks.opening, before, first) for marks in MARKS]
    last = max(places)
    return last if last >= 0 else first


class _Turn:
    """A message, and the thought and the text it is made of."""

    def __init__(self, number: int, message: Message) -> None:
        self.number, self.raw = number, message
        self.thought, self.text, self.inside = "", str(message["content"]), None
        if message["role"] == "assistant":
            self.thought = str(message.get("reasoning_content", ""))
            self.inside = None if self.thought else find_thought(self.text)
        if self.inside is not None and self.inside.answer is not None:
            self.thought = self.text[slice(*self.inside.thought)].strip()
            self.text = self.text[slice(*self.inside.answer)].strip()
            if not self.thought:  # an empty thought is a matter of form
                self.inside, self.text = None, str(message["content"])
        elif self.inside is not None:  # a thought without an answer is all that is said
            self.inside = None

    @property
    def words(self) -> list[str]:
        """What is thought and said."""
        return [self.thought, self.text]

    @property
    def fields(self) -> dict[str, Any]:
        """What the message holds beside its words, and a template may print."""
        return {key: value for key, value in self.raw.items() if key not in ("content", "reasoning_content", "train")}

    def with_fields(self, fields: Mapping[str, Any]) -> _Turn:
        """Return the same turn with other fields."""
        other = copy(self)
        other.raw = {**self.raw, **fields}
        return other

    @property
    def parts(self) -> list[Part]:
        """The parts to look for."""
        role = str(self.raw["role"])
        thoughts = [Part(self.number, "thought", role, self.thought)] if self.thought else []
        return [*thoughts, Part(self.number, "text", role, self.text)]

    def message(self, way: str, words: Mapping[Key, str], marks: ThoughtMarks) -> Message:
        """Return the message for the template, with the words of some parts replaced."""
        thought = words.get((self.number, "thought"), self.thought)
        text = words.get((self.number, "text"), self.text)
        plain = {key: value for key, value in self.raw.items() if key != "reasoning_content"}
        if not self.thought:
            return {**plain, "content": text}
        if way == "given" and self.inside is not None:
            content, (start, end), (answer_start, answer_end) = self._pieces()
            written = content[:start] + thought + content[end:answer_start] + text + content[answer_end:]
            return {**plain, "content": written}
        if way == "inline":
            opening = f"{marks.opening}\n" if marks.tail.startswith("\n") else marks.opening
            return {**plain, "content": f"{opening}{thought}{marks.tail}{text}"}
        return {**plain, "content": text, "reasoning_content": thought}

    def _pieces(self) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """Return the content, and where the words of the thought and of the answer in it begin and end."""
        assert self.inside is not None
        assert self.inside.answer is not None
        content = str(self.raw["content"])
        return content, _trimmed(content, self.inside.thought), _trimmed(content, self.inside.answer)


def _parts_of(turns: Sequence[_Turn]) -> list[Part]:
    """Return what is looked for of several turns, in order."""
    parts: list[Part] = []
    for turn in turns:
        parts += turn.parts
    return parts


def _differences(text: str, other: str) -> list[Span]:
    """Return where two texts of the same length differ."""
    spans: list[Span] = []
    for place, (ours, theirs) in enumerate(zip(text, other, strict=True)):
        if ours == theirs:
            continue
        if spans and spans[-1][1] == place:
            spans[-1] = spans[-1][0], place + 1
        else:
            spans.append((place, place + 1))
    return spans


def _trimmed(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return a span without the white space at its ends."""
    words = text[slice(*span)]
    start = span[0] + len(words) - len(words.lstrip())
    return start, start + len(words.strip())


def thought_marks(tokenizer: Any) -> ThoughtMarks:
    """Return the marks that a model's template writes, else those its tokenizer has tokens for, else `<think>`."""
    written = marks_in(template_source(tokenizer))
    if written is not None:
        return written
    known = tokenizer.get_added_vocab()
    for marks in MARKS:
        if marks.opening in known:
            return marks
    return THINK


@lru_cache(maxsize=8)
def _opens_thoughts(tokenizer: Any, source: str, enable_thinking: bool | None) -> bool:
    return prepare_prompt(tokenizer, messages_of("What is this?"), enable_thinking).opened is not None


def _check_tools(messages: Sequence[Message], text: str) -> None:
    """Refuse a template that prints no tool calls."""
    for message in messages:
        for call in message.get("tool_calls", []):
            name = call["function"]["name"]
            if name not in text:
                raise UserError(
                    f"This model's chat template leaves tool calls out: {name!r} is not in the text that it makes. "
                    "Leave such conversations out, or use a model with tools."
                )


def _continued(
    tokenizer: Any, messages: Sequence[Message], enable_thinking: bool | None
) -> tuple[str, str, list[Span]]:
    """Return a conversation whose last message is left open, what of it may open a thought, and `outside`."""
    last, content = messages[-1], str(messages[-1]["content"])
    inside = find_thought(content)
    if "reasoning_content" not in last and (not content.strip() or (inside is not None and inside.answer is None)):
        chat = _Chat(tokenizer, messages[:-1], enable_thinking, generation=True)
        prompt = chat.located
        start = prompt.end_before(len(messages))
        opened = open_thought(prompt.text[start:])
        words = content.lstrip().removeprefix(opened.opening).lstrip("\n") if opened is not None else content
        text = prompt.text + words.rstrip()
        begun = find_thought(words)  # a mark that opens the thought is no part of its words
        said = len(prompt.text) + (begun.thought[0] if begun is not None else 0)
        return text, text[start:], [*chat.outside(), *([(said, len(text))] if said < len(text) else [])]
    chat = _Chat(tokenizer, messages, enable_thinking)
    located = chat.located
    first, end = located.spans[len(messages) - 1, "text"]
    outside = [(start, min(after, end)) for start, after in chat.outside() if start < end]
    return located.text[:end], located.text[located.end_before(len(messages) - 1) : first], outside


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: Any, source: str) -> str:
    probe = [*messages_of("What is this?", "A probe.")]
    located = _Chat(tokenizer, probe, None).located
    literal = located.text[located.spans[1, "text"][1] :]
    return leading_control_tokens(tokenizer, literal) or literal.rstrip()


def end_of_turn(tokenizer: Any) -> str:
    """Return what the template prints at the end of an assistant's last turn, '' if nothing."""
    try:
        return _end_of_turn(tokenizer, template_source(tokenizer))
    except UserError:  # a template that takes no such conversation
        return ""


def stop_ids(tokenizer: Any, configured: int | Sequence[int] | None) -> set[int]:
    """Return the tokens that end an answer: the model's configured ones, the tokenizer's, and the template's.

    The template's end-of-turn mark counts where it is one control token: training teaches a model to end with it.
    """
    listed = [configured] if configured is None or isinstance(configured, int) else list(configured)
    stops = set()
    for token in [*listed, tokenizer.eos_token_id]:
        if token is not None and not isinstance(token, int):
            raise UserError(
                f"The model's eos_token_id is {quoted(configured)}: it must be a number, or a list of numbers."
            )
        if token is not None:
            stops.add(int(token))
    if tokenizer.chat_template:
        mark = end_of_turn(tokenizer)
        ids = tokenizer(mark.strip(), add_special_tokens=False)["input_ids"] if mark.strip() else []
        if ids and leading_control_tokens(tokenizer, mark) == mark and not stops & set(ids):
            stops.add(int(ids[-1]))
    return stops


def say_endings(tokenizer: Any, configured: int | Sequence[int] | None) -> None:
    """Log it once where answers would not end: see `check_chat`."""
    if not tokenizer.chat_template:
        return
    try:
        check_chat(tokenizer, stop_ids(tokenizer, configured))
    except UserError as error:
        say_once(str(error))


def check_chat(tokenizer: Any, stops: set[int]) -> None:
    """Check that what is trained ends where sampling stops.

    Raises:
        UserError: the template ends an assistant's turn with a token at which sampling does not stop.
    """
    chat = _encoded(_Chat(tokenizer, messages_of("What is this?", "A probe."), None), [1])
    last = chat.ids[int(chat.answer_positions[-1])]
    if last not in stops:
        ends = tokenizer.decode([last])
        names = ", ".join([repr(tokenizer.decode([token])) for token in sorted(stops)]) or "nothing"
        raise UserError(
            f"This model's chat template ends an answer with {ends!r}, but sampling stops at {names}: a model trained "
            "on it would never end its answers. Give the tokenizer a template that ends turns with its end token."
        )
