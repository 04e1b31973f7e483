"""Projections token by token of conversations on directions, and the scores that a monitor makes of them.

A score is the projection of a token's activation on the unit direction, centred between the two means the direction was
made from, in units of the deviation of single tokens' projections (`TokenScale`). A monitor knows no later token, so
smoothing looks back only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.errors import UserError
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.blocks import Site, StopForward, check_blocks, find_blocks, visiting
from emscope.organisms.chat import EncodedChat, Message, render
from emscope.organisms.control_tokens import Span, tokenise
from emscope.organisms.device import OnEachDevice
from emscope.organisms.models import Organism
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import text_batches
from emscope.organisms.thoughts import find_thought
from emscope.residual.capture import WIDTH_STEP, organism_width


@dataclass(frozen=True)
class Turn:
    """One message as the model reads it: its role, its text piece by piece, and which token each piece is."""

    role: str
    pieces: list[str]
    positions: list[int]


@dataclass(frozen=True)
class SpokenChat:
    """A conversation's tokens with the words of every turn; template tokens belong to no turn.

    `spelled` are the control tokens that messages spell; they are among the tokens as plain text.
    """

    ids: list[int]
    turns: list[Turn]
    spelled: tuple[str, ...] = ()

    @property
    def answer_positions(self) -> list[int]:
        """Positions of the tokens the assistant said, without end-of-turn marks."""
        positions: list[int] = []
        for turn in self.turns:
            if turn.role == "assistant":
                positions += turn.positions
        return positions


@dataclass(frozen=True)
class TokenScale:
    """What turns raw projections of tokens into scores: centre and deviation, each float [n_directions]."""

    centre: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, positive: Sequence[np.ndarray], negative: Sequence[np.ndarray]) -> TokenScale:
        """Centre between the mean projections of two sets of answers; deviation of a token within its set.

        Each answer is an array [n_tokens, n_directions], and counts the same however long it is.

        Raises:
            UserError: a side without answers, or answers without tokens.
        """
        positive_mean, positive_variance = _moments(positive)
        negative_mean, negative_variance = _moments(negative)
        variance = (positive_variance + negative_variance) / 2
        return cls((positive_mean + negative_mean) / 2, np.sqrt(np.maximum(variance, 1e-12)))

    def score(self, projections: np.ndarray) -> np.ndarray:
        """Return scores of projections [..., n_directions]."""
        return np.asarray((projections - self.centre) / self.deviation)


def _moments(answers: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of tokens, each [n_directions], every answer [n_tokens, n_directions] counting alike.

    Raises:
        UserError: no answer has a token.
    """
    spoken = [answer.astype(np.float64) for answer in answers if len(answer)]
    if not spoken:
        raise UserError("The scale of token scores needs answers with at least one token on both sides.")
    mean = np.mean([answer.mean(axis=0) for answer in spoken], axis=0)
    variance = np.mean([((answer - mean) ** 2).mean(axis=0) for answer in spoken], axis=0)
    return mean, variance


def spoken_chat(tokenizer: Any, messages: Sequence[Message]) -> SpokenChat:
    """Tokenise a conversation and say which tokens carry the words of which turn; the pieces of a turn make its text.

    Raises:
        UserError: a template that changes what a message says.
    """
    text = render(tokenizer, list(messages))
    spans = [_words(tokenizer, messages, number, text) for number in range(len(messages))]
    words: list[Span] = []
    for message, span in zip(messages, spans, strict=True):
        words += _said(message["role"], text, *span)
    tokens = tokenise(tokenizer, text, words)

    turns = []
    for message, span in zip(messages, spans, strict=True):
        turns.append(_turn(message["role"], text, tokens.offsets, *span))
    return SpokenChat(tokens.ids, turns, tokens.spelled)


def _said(role: str, text: str, start: int, end: int) -> list[Span]:
    """Return the characters of a turn's words: the marks around an assistant's thought are none."""
    inside = find_thought(text[start:end]) if role == "assistant" else None
    spans = [(0, end - start)] if inside is None else [inside.thought, inside.answer or (0, 0)]
    return [(start + first, start + last) for first, last in spans if first < last]


def _words(tokenizer: Any, messages: Sequence[Message], number: int, text: str) -> tuple[int, int]:
    """Return where a message's words begin and end in the template's text, outer white space left out."""
    content = messages[number]["content"]
    words = content.strip()
    if not words:
        return 0, 0
    for place in _places(tokenizer, messages, number, text):
        for written in (content, words):
            if text.startswith(written, place):
                start = place + written.index(words)
                return start, start + len(words)
    raise UserError("This model's chat template changes what messages say, so their tokens cannot be shown.")


def _places(tokenizer: Any, messages: Sequence[Message], number: int, text: str) -> Iterator[int]:
    """Yield where a message may begin: where other words stand in its place, and where an answer is to be written.

    A search for the words themselves would find a short message in a role's name or in a template's own system prompt.
    """
    other = "Aa0"
    while other in text:
        other += "a0"
    rendered = render(tokenizer, [*messages[:number], {**messages[number], "content": other}, *messages[number + 1 :]])
    place = rendered.find(other)
    if place >= 0 and text.startswith(rendered[:place]):
        yield place
    if messages[number]["role"] == "assistant":  # some templates cut an answer with reasoning at its marks
        before = render(tokenizer, list(messages[:number]), add_generation_prompt=True)
        if text.startswith(before):
            yield len(before)


def _turn(role: str, text: str, offsets: Sequence[tuple[int, int]], start: int, end: int) -> Turn:
    """Cut a turn's text at its tokens; bytes of one character that several tokens share go to the first of them."""
    pieces: list[str] = []
    positions: list[int] = []
    begun = start
    for position, (first, last) in enumerate(offsets):
        if first < end and last > start and last > first:
            ended = min(last, end)
            pieces.append(text[begun:ended])
            positions.append(position)
            begun = ended
    return Turn(role, pieces, positions)


def token_projections(
    organism: Organism,
    chats: Sequence[EncodedChat | SpokenChat],
    vectors: np.ndarray,
    block: int,
    *,
    site: Site = "resid_post",
    token_budget: int = 4096,
    name: str = "reading tokens",
) -> list[np.ndarray]:
    """Return the projection of every token on unit directions at one block, a float32 [n_tokens, n_directions] a chat.

    Args:
        organism: who reads.
        chats: tokenised conversations; the result is in their order.
        vectors: directions [n_directions, d_model] of any length; they are normalised.
        block: the block whose residual stream is read.
        site: its output or its input.
        token_budget: padded tokens in one forward pass.
        name: what the progress bar says.

    Raises:
        UserError: there is no such block, or the directions have another width than the model.
    """
    if vectors.shape[1] != organism_width(organism):
        raise UserError(f"These directions have width {vectors.shape[1]}, the model {organism_width(organism)}.")
    check_blocks([block], len(find_blocks(organism.model)))
    units = OnEachDevice(torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=1).T)
    out: list[np.ndarray] = [np.zeros((0, len(vectors)), np.float32)] * len(chats)
    prefix = SharedPrefix(organism, [chat.ids for chat in chats])
    seen: list[Tensor] = []

    def visit(_block: int, hidden: Tensor) -> None:
        seen.append((hidden.float() @ units.on(hidden.device)).cpu())

    def last_visit(number: int, hidden: Tensor) -> None:
        visit(number, hidden)
        raise StopForward  # later blocks are not needed

    def read_anew(padded: PaddedBatch) -> np.ndarray:
        with visiting(organism.model, [block], last_visit, site), suppress(StopForward):
            prefix.forward(padded)
        return seen.pop().numpy()

    def read(padded: PaddedBatch) -> np.ndarray:
        told = [organism.placement.told, prefix.length, block, site, vectors]
        tokens = [padded.ids.numpy(), padded.mask.numpy()]
        return parts.kept_array("projections", lambda: [told, tokens], lambda: read_anew(padded))

    with progress.task(name, len(chats), "examples") as advance, torch.inference_mode():
        with visiting(organism.model, [block], visit, site):
            prefix.run()
        shared = seen.pop()[0].numpy() if prefix.length else np.zeros((0, len(vectors)), np.float32)

        for batch in text_batches(prefix, [chat.ids for chat in chats], token_budget, WIDTH_STEP):
            for row, tail, values in zip(batch.rows, batch.tails, read(batch.padded), strict=True):
                out[row] = np.concatenate([shared, values[: len(tail)]])
            advance(len(batch.rows))
    return out


def smoothed(scores: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each score and the `window - 1` before it, along the first axis; the first ones have fewer."""
    totals = np.cumsum(scores, axis=0, dtype=np.float64)
    late = np.concatenate([totals[:window], totals[window:] - totals[:-window]])
    counts = np.minimum(np.arange(1, len(scores) + 1), window)
    return np.asarray(late / counts.reshape(-1, *[1] * (scores.ndim - 1)))


def early_scores(scores: Sequence[np.ndarray], n_tokens: int | None, how: str) -> np.ndarray:
    """Return what a monitor thinks of each answer after `n_tokens` of it (None: all), [n_answers, ...].

    `how` is "mean" or "max" over the tokens read; a shorter answer is read whole; an answer without tokens is NaN.
    """
    pick = np.mean if how == "mean" else np.max
    early = []
    for answer in scores:
        silent = np.full(answer.shape[1:], np.nan)
        early.append(pick(answer[:n_tokens], axis=0) if len(answer) else silent)
    return np.array(early)
