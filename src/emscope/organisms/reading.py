"""The one loop that puts texts through a model: batches of similar length, of what follows the prefix they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emscope.organisms.batching import ROUND_TO, PaddedBatch, rounded, token_budget_batches
from emscope.organisms.chat import EncodedChat
from emscope.organisms.prefix import SharedPrefix

TOKEN_BUDGET = 4096
"""Padded tokens in one forward pass."""


@dataclass(frozen=True)
class TextBatch:
    """Some of the texts, ready for one forward pass.

    Attributes:
        rows: their numbers among all texts.
        tails: the token ids of each that follow the shared prefix.
        padded: the same as tensors, padded on the right.
    """

    rows: list[int]
    tails: list[list[int]]
    padded: PaddedBatch


def token_ids(chats: Sequence[EncodedChat]) -> list[list[int]]:
    """Return the token ids of tokenised chats, in order."""
    return [chat.ids for chat in chats]


def text_batches(
    prefix: SharedPrefix,
    sequences: Sequence[list[int]],
    token_budget: int = TOKEN_BUDGET,
    width_step: int = ROUND_TO,
) -> Iterator[TextBatch]:
    """Yield all sequences in batches of similar length, longest first; `prefix.forward(batch.padded)` reads one.

    Args:
        prefix: what the sequences share; it must have been run before the first batch is read.
        sequences: token ids of whole texts, each longer than the prefix.
        token_budget: padded tokens in one batch; a longer sequence makes a batch of its own.
        width_step: widths of batches are multiples of it.
    """
    tails = [ids[prefix.length :] for ids in sequences]
    pad_id = prefix.organism.tokenizer.pad_token_id or 0

    for rows in token_budget_batches([len(tail) for tail in tails], token_budget):
        chosen = [tails[row] for row in rows]
        width = rounded(max(map(len, chosen)), width_step)
        yield TextBatch(rows, chosen, PaddedBatch.of(chosen, pad_id, width=width))
