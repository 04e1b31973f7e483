"""The one loop that puts texts through a model: batches of similar length, of what follows the prefix they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emscope.organisms.batching import ROUND_TO, PaddedBatch, rounded, token_budget_batches
from emscope.organisms.chat import EncodedChat
from emscope.organisms.prefix import SharedPrefix

TOKEN_BUDGET = 4096
"""Padded tokens in one forward pass."""
ENOUGH_FOR_A_CPU = 1024
"""Padded tokens at which a processor's products are as fast as at more, while what lies between them fits its caches."""
WORTH_PACKING = 8192
"""Tokens of texts that are worth a copy of the weights in packed form (see `direct`)."""


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


def worth_packing(sequences: Sequence[Sequence[int]]) -> bool:
    """Say whether so much is read that the weights should be packed first."""
    return sum(map(len, sequences)) >= WORTH_PACKING


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
        token_budget: most padded tokens in one batch, on a CPU no more than ENOUGH_FOR_A_CPU; a longer sequence makes a
            batch of its own.
        width_step: widths of batches are multiples of it.
    """
    tails = [ids[prefix.length :] for ids in sequences]
    pad_id = prefix.organism.tokenizer.pad_token_id or 0

    most = min(token_budget, ENOUGH_FOR_A_CPU) if prefix.organism.device.type == "cpu" else token_budget
    for rows in token_budget_batches([len(tail) for tail in tails], most):
        chosen = [tails[row] for row in rows]
        width = rounded(max(map(len, chosen)), width_step)
        yield TextBatch(rows, chosen, PaddedBatch.of(chosen, pad_id, width=width))
