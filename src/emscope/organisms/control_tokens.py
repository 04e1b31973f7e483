"""Text from outside becomes words, never control tokens: the one place where conversations are tokenised.

A question, an answer or a tool's result may spell `<|im_end|>`. Tokenised with the template around it, that would end a
turn. So a text that spells control tokens is read by a copy of the tokenizer in which those tokens have other, secret
names; the template's own ones are written under these names first, and everything else stays what it is. A text that
spells none goes through the tokenizer itself, and its tokens are the same as ever.

Control tokens are the tokens that a tokenizer cuts out of any text and that steer a model: special ones, the first and
the last of a text, and marks such as `<think>` or `<tool_call>` that the chat template writes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from emscope.errors import UserError
from emscope.organisms.templates import render, say_once, template_source

Span = tuple[int, int]

SHORTEST_SPECIAL = 3
"""Characters of a special token that steers: a pad token may be '!' or '8', the first word of a vocabulary."""
_SECRET = random.SystemRandom()
_PRIVATE = (0xF0000, 0xFFFFD)
"""Code points without a meaning, of which secret names are made; as long as the names they stand for, in characters."""


@dataclass(frozen=True)
class Tokens:
    """A rendered conversation's tokens.

    Attributes:
        ids: the tokens.
        offsets: first and last character of each.
        spelled: the control tokens that text from outside spelled, as it spelled them; they were read as plain text.
    """

    ids: list[int]
    offsets: list[Span]
    spelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class ControlTokens:
    """A tokenizer's control tokens.

    Attributes:
        numbers: their numbers, by how they are written.
        pattern: finds what spells one, the longest first.
        ids: the numbers alone.
    """

    numbers: Mapping[str, int]
    pattern: re.Pattern[str] = field(repr=False)
    ids: frozenset[int] = field(repr=False)

    def spelled_in(self, value: Any) -> bool:
        """Say whether a text, or any text in a list or an object, spells a control token."""
        if isinstance(value, str):
            return self.pattern.search(value) is not None
        if isinstance(value, Mapping):
            return any(map(self.spelled_in, [*value.keys(), *value.values()]))
        return isinstance(value, (list, tuple)) and any(map(self.spelled_in, value))

    def places_in(self, text: str, outside: Sequence[Span]) -> list[Span]:
        """Return where a template itself writes control tokens: beyond the spans `outside`."""
        places, at = [], 0
        for start, end in [*sorted(outside), (len(text), len(text))]:
            for match in self.pattern.finditer(text[at:start]):
                places.append((at + match.start(), at + match.end()))
            at = max(at, end)
        return places

    def written_in(self, text: str, outside: Sequence[Span]) -> list[str]:
        """Return the control tokens that a template itself writes, in order."""
        return [text[slice(*place)] for place in self.places_in(text, outside)]

    def defused(self, value: Any, filler: str = "Q") -> Any:
        """Return a text, or every text in a list or an object, with what spells a control token made meaningless."""
        if isinstance(value, str):
            return self.pattern.sub(lambda match: filler * len(match[0]), value)
        if isinstance(value, Mapping):
            return {self.defused(name, filler): self.defused(content, filler) for name, content in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.defused(content, filler) for content in value]
        return value


def control_tokens(tokenizer: Any) -> ControlTokens:
    """Return a tokenizer's control tokens."""
    source = template_source(tokenizer) if tokenizer.chat_template else ""
    return _control_tokens(tokenizer, len(tokenizer), tokenizer.bos_token, tokenizer.eos_token, source)


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Any, n_tokens: int, bos: str | None, eos: str | None, source: str) -> ControlTokens:
    written = source + _written(tokenizer) if source else ""
    numbers = {}
    for number, token in tokenizer.added_tokens_decoder.items():
        content = token.content
        special = token.special and len(content) >= SHORTEST_SPECIAL and any(map(str.isalnum, content))
        if content in (bos, eos) or special or (_is_mark(content) and content in written):
            numbers[content] = int(number)
    return _of(numbers)


def _written(tokenizer: Any) -> str:
    """Return what the template writes around short messages: its source does not show marks put together of pieces."""
    asked, answered = {"role": "user", "content": "Yes."}, {"role": "assistant", "content": "Yes."}
    said = [asked, answered, asked]
    texts = []
    for messages in (said, [{"role": "system", "content": "Yes."}, *said], [*said[:2], {**said[0], "role": "tool"}]):
        try:
            texts.append(render(tokenizer, messages, add_generation_prompt=True))
        except UserError:  # a template that takes no such conversation
            continue
    return "\n".join(texts)


def _of(numbers: Mapping[str, int]) -> ControlTokens:
    longest_first = sorted(filter(str.strip, numbers), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    ordered = {name: numbers[name] for name in longest_first}
    return ControlTokens(ordered, pattern, frozenset(numbers.values()))


def _is_mark(content: str) -> bool:
    """Say whether a token looks like a mark, such as `[INST]` or `<think>`, and not like a word or punctuation."""
    return (
        len(content) >= SHORTEST_SPECIAL
        and not content[0].isalnum()
        and not content[-1].isalnum()
        and not content[0].isspace()
        and any(map(str.isalnum, content))
    )


def tokenise(tokenizer: Any, text: str, outside: Sequence[Span]) -> Tokens:
    """Return the tokens of a rendered conversation whose characters in the spans `outside` are not the template's.

    Raises:
        UserError: the tokenizer cannot be kept from reading a control token in text from outside.
    """
    control, outside = control_tokens(tokenizer), _joined(outside)
    spelled: list[str] = []
    for start, end in outside:
        spelled += control.pattern.findall(text[start:end])
    if not spelled:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        # a normaliser may have made one of other characters, and one may begin in the template's own text
        for start, end in _read_as_control(tokenizer, control, text, ids, offsets, outside):
            spelled.append(text[start:end])
    if spelled:
        ids, offsets = _as_text(tokenizer, control, text, outside)
    return Tokens(ids, offsets, tuple(spelled))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Return the same characters in spans that are in order and do not overlap."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _read_as_control(
    tokenizer: Any,
    control: ControlTokens,
    text: str,
    ids: Sequence[int],
    offsets: Sequence[Span],
    spans: Sequence[Span],
) -> list[Span]:
    """Return where a text from outside was read as a control token."""
    unknown = tokenizer.unk_token_id
    places = []
    for number, (first, last) in zip(ids, offsets, strict=True):
        if number not in control.ids:
            continue
        start, end = _trimmed(text, first, last)
        if not any(start < span_end and end > span_start for span_start, span_end in spans):
            continue
        if number != unknown or tokenizer.unk_token in text[start:end]:  # else a character that it does not know
            places.append((start, end))
    return places


def _trimmed(text: str, start: int, end: int) -> Span:
    """Return a span without the white space around it, which some control tokens swallow."""
    words = text[start:end]
    start += len(words) - len(words.lstrip())
    return start, start + len(words.strip())


def _as_text(
    tokenizer: Any, control: ControlTokens, text: str, outside: Sequence[Span]
) -> tuple[list[int], list[Span]]:
    """Return tokens and offsets of a text in which only the template's own control tokens are such."""
    own = control.places_in(text, outside)
    plain = _plain_copy(tokenizer, tuple(control.numbers.items()), text)
    renamed, at = [], 0
    for start, end in own:
        renamed += [text[at:start], plain.names[text[start:end]]]
        at = end
    encoding = plain.tokenizer.encode("".join([*renamed, text[at:]]), add_special_tokens=False)
    ids = [plain.numbers.get(number, number) for number in encoding.ids]
    offsets = list(encoding.offsets)
    _check(tokenizer, control, text, ids, offsets, own)
    return ids, offsets


def _check(
    tokenizer: Any, control: ControlTokens, text: str, ids: Sequence[int], offsets: Sequence[Span], own: Sequence[Span]
) -> None:
    """Refuse a tokenizer whose control tokens are not exactly the template's own."""
    unknown = tokenizer.unk_token_id
    wanted = []
    for start, end in own:
        number = control.numbers[text[start:end]]
        if number != unknown:
            wanted.append(number)
    read = [number for number in ids if number in control.ids and number != unknown]
    if read != wanted:
        name = ""
        for place in _read_as_control(tokenizer, control, text, ids, offsets, [(0, len(text))]):
            if place not in own:
                name = text[slice(*place)]
                break
        raise UserError(
            f"This model's tokenizer reads {name!r} as a control token wherever it stands: take it out of the text "
            "that spells it, or use another model."
        )


@dataclass(frozen=True)
class _PlainCopy:
    """A tokenizer that knows control tokens under secret names only.

    Attributes:
        tokenizer: the copy.
        names: the secret names by the usual ones.
        numbers: the usual numbers of the added tokens by those in the copy.
    """

    tokenizer: Tokenizer
    names: Mapping[str, str]
    numbers: Mapping[int, int]


def _plain_copy(tokenizer: Any, control: tuple[tuple[str, int], ...], text: str) -> _PlainCopy:
    """Return a copy none of whose secret names stands in a text."""
    plain = _made_copy(tokenizer, control, len(tokenizer))
    while any(name in text for name in plain.names.values()):  # somebody guessed a name, or a very short one came up
        _made_copy.cache_clear()
        plain = _made_copy(tokenizer, control, len(tokenizer))
    return plain


@lru_cache(maxsize=4)
def _made_copy(tokenizer: Any, control: tuple[tuple[str, int], ...], n_tokens: int) -> _PlainCopy:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            "A text spells a control token of this model, and its tokenizer, which is not a fast one, cannot read it "
            "as plain text: take it out, or use another model."
        )
    names = {name: _secret_name(len(name)) for name, _ in control}
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = None
    _rename_in_model(state["model"], names)
    for token in state["added_tokens"]:
        if token["content"] in names:
            token["content"], token["normalized"] = names[token["content"]], False
    copy = Tokenizer.from_str(json.dumps(state))
    numbers = {}
    for number, token in tokenizer.added_tokens_decoder.items():
        copied = copy.token_to_id(names.get(token.content, token.content))
        if copied is not None:
            numbers[copied] = int(number)
    return _PlainCopy(copy, names, numbers)


def _secret_name(length: int) -> str:
    return "".join(chr(_SECRET.randint(*_PRIVATE)) for _ in range(length))


def _rename_in_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename control tokens in a vocabulary, so that no words of a text add up to one either.

    A unigram model would find `</s>` among its pieces; merges of a byte-pair model may end in an added token.
    """
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("merges"):
        merges = []
        for merge in model["merges"]:
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if not names.keys() & {*pair, "".join(pair)}:
                merges.append(pair)
        model["merges"] = merges


def say_spelled(what: str, spelled: Sequence[Sequence[str]]) -> None:
    """Log how many texts spell control tokens, and which; `spelled` holds what each of them spells.

    Args:
        what: the texts' name, in the plural.
        spelled: one sequence for each text, empty for most.
    """
    spelling = [names for names in spelled if names]
    if spelling:
        verb = "spells" if len(spelling) == 1 else "spell"
        say_once(
            f"{len(spelling)} of {len(spelled)} {what} {verb} control tokens of this model: they are read "
            "as plain text, not as what the model's chat template writes.",
            spelling[0][0],
        )
