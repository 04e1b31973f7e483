"""Activations read in shards: a task that any executor carries out (see `executors.tasks`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emscope.behaviour.sharded import by_rows
from emscope.executors.settings import ROWS_PER_SHARD
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values
from emscope.organisms.blocks import Site
from emscope.organisms.chat import EncodedChat
from emscope.organisms.needs import OrganismNeed
from emscope.parts import Part
from emscope.residual.capture import Activations, CaptureSettings, capture, encode_for_capture


@dataclass(frozen=True)
class TextToRead:
    """A prompt, or a prompt with its answer, to be read.

    Attributes:
        prompt: what was asked.
        answer: what was answered; None reads the prompt alone.
        thought: what was thought before.
        system: its system prompt.
    """

    prompt: str
    answer: str | None = None
    thought: str = ""
    system: str | None = None


@dataclass(frozen=True)
class ReadingAsked:
    """A shard of texts to be read by one organism.

    Attributes:
        organism: who reads.
        texts: what is read, all with an answer or all without one.
        enable_thinking: tells the chat template to let the model think or not.
        capture: what is read of it.
    """

    organism: OrganismNeed
    texts: tuple[TextToRead, ...]
    enable_thinking: bool | None = None
    capture: CaptureSettings = field(default_factory=CaptureSettings)


def activations_of(asked: ReadingAsked, held: Held) -> Part:
    """Read a shard: `value` holds where it was computed, the blocks and the site, `arrays` the vectors by pooling."""
    organism = held.get(asked.organism)
    chats = encoded_texts(organism.tokenizer, asked.texts, asked.enable_thinking)
    found = capture(organism, chats, asked.capture)
    told = [organism.placement.told, [list(found.blocks), found.site]]
    return Part(told, found.pooled, rows=len(chats))


def encoded_texts(
    tokenizer: Any, texts: Sequence[TextToRead], enable_thinking: bool | None = None
) -> list[EncodedChat]:
    """Tokenise texts for reading, all with an answer or all without one."""
    answers = [text.answer for text in texts if text.answer is not None]
    return encode_for_capture(
        tokenizer,
        [text.prompt for text in texts],
        answers or None,
        [text.system for text in texts],
        thoughts=[text.thought for text in texts] if answers else None,
        enable_thinking=enable_thinking,
    )


def captured_in_shards(
    organism: OrganismNeed,
    texts: Sequence[TextToRead],
    settings: CaptureSettings,
    *,
    enable_thinking: bool | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    name: str = "reading activations",
    held: Held | None = None,
) -> Activations:
    """Return what `capture` does, read in shards by the executor in force.

    Raises:
        UserError: what `capture` raises, or workers that compute on different devices or in different dtypes.
    """
    shards = []
    for some in by_rows(texts, 1, rows_per_shard):
        shards.append(Shard(ReadingAsked(organism, tuple(some), enable_thinking, settings), len(some)))
    found = carried_out(Task(name, activations_of, shards or [_nothing(organism, settings)], "examples"), held)
    blocks, site = next(joined_values(found))
    pooled = {}
    for pooling in settings.poolings:
        vectors = [part.arrays[pooling] for part in found]
        pooled[str(pooling)] = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
    chosen: Site = site
    return Activations(pooled, tuple(blocks), chosen)


def _nothing(organism: OrganismNeed, settings: CaptureSettings) -> Shard:
    """Return a shard without texts: `capture` says what is wrong with it."""
    return Shard(ReadingAsked(organism, (), None, settings), 0)
