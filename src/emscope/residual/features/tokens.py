"""Activations of single tokens at one block: what a sparse autoencoder is trained on.

The tokens that all sequences begin with (the chat template's system prompt) are left out, and so is the first token of
a sequence: it is the same in every text, and models park huge activations on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.errors import UserError
from emscope.organisms.blocks import StopForward, check_blocks, find_blocks, head_logits, visiting
from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import Organism
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import TOKEN_BUDGET, TextBatch, text_batches, token_ids
from emscope.residual.capture import WIDTH_STEP, organism_width


@dataclass(frozen=True)
class TokenActivations:
    """Residual-stream vectors of single tokens after one block, in the order of the chats.

    Attributes:
        values: float32 [n_tokens, d_model].
        ids: token ids, int64 [n_tokens].
        chat: the number of each token's chat, int64 [n_tokens].
        is_answer: whether an assistant wrote the token, bool [n_tokens].
    """

    values: np.ndarray
    ids: np.ndarray
    chat: np.ndarray
    is_answer: np.ndarray

    def numbered_from(self, first: int) -> TokenActivations:
        """Return the same tokens with chats numbered from `first` on."""
        return replace(self, chat=self.chat + first)

    @classmethod
    def joined(cls, parts: Sequence[TokenActivations]) -> TokenActivations:
        """Return the tokens of several, in order."""
        return cls(
            np.concatenate(list(map(attrgetter("values"), parts))),
            np.concatenate(list(map(attrgetter("ids"), parts))),
            np.concatenate(list(map(attrgetter("chat"), parts))),
            np.concatenate(list(map(attrgetter("is_answer"), parts))),
        )


def _counted(batch: TextBatch, prefix: SharedPrefix) -> Tensor:
    """Return which padded tokens of a batch count, bool [rows, width]: real ones, but for a sequence's first."""
    counted = batch.padded.mask.bool()
    if not prefix.length:
        counted[:, 0] = False
    return counted


def capture_tokens(
    organism: Organism,
    chats: Sequence[EncodedChat],
    block: int,
    *,
    token_budget: int = TOKEN_BUDGET,
    name: str = "reading tokens",
) -> TokenActivations:
    """Read the output of one block at every token after the shared prefix.

    Raises:
        UserError: no chats, an unknown block, or activations that are not finite.
    """
    if not chats:
        raise UserError("There is nothing to read activations from: no conversations were given.")
    check_blocks([block], len(find_blocks(organism.model)))
    with progress.task(name, len(chats), "texts") as advance, torch.inference_mode():
        prefix = SharedPrefix(organism, token_ids(chats))
        prefix.run()
        first = max(prefix.length, 1)
        sizes = np.array([max(len(chat.ids) - first, 0) for chat in chats])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        values = np.empty((starts[-1], organism_width(organism)), dtype=np.float32)
        for batch in text_batches(prefix, token_ids(chats), token_budget, WIDTH_STEP):
            places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in batch.rows])
            values[places] = _kept(organism, prefix, batch, block)
            advance(len(batch.rows))
    if not np.isfinite(values).all():
        raise UserError(f"The activations of {organism.source.name} are not finite at block {block}.")
    ids: list[int] = []
    answers: list[bool] = []
    for chat in chats:
        ids += chat.ids[first:]
        answers += chat.is_answer[first:]
    numbers = np.repeat(np.arange(len(chats)), sizes)
    return TokenActivations(values, np.array(ids, dtype=np.int64), numbers, np.array(answers, dtype=bool))


def _kept(organism: Organism, prefix: SharedPrefix, batch: TextBatch, block: int) -> np.ndarray:
    """Read a batch, or take what was kept of it."""

    def inputs() -> Any:
        return [organism.placement.told, prefix.length, block, batch.padded.ids.numpy(), batch.padded.mask.numpy()]

    return parts.kept_array("tokens", inputs, lambda: _read(organism, prefix, batch, block))


def _read(organism: Organism, prefix: SharedPrefix, batch: TextBatch, block: int) -> np.ndarray:
    counted = _counted(batch, prefix)
    seen: list[Tensor] = []

    def visit(_block: int, hidden: Tensor) -> None:
        seen.append(hidden[counted.to(hidden.device)].float())
        raise StopForward

    with visiting(organism.model, [block], visit), suppress(StopForward):
        prefix.forward(batch.padded)
    return seen[0].cpu().numpy()


def answer_losses(
    organism: Organism,
    chats: Sequence[EncodedChat],
    block: int,
    replacement: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Return the summed cross-entropy (nats) and the number of answer tokens of each chat, float64 [n_chats, 2].

    `replacement` takes the block's outputs [n_tokens, d_model] float32 and returns what the later blocks read; the
    shared prefix and a sequence's first token keep what they have.
    """
    sums = np.zeros((len(chats), 2))
    with torch.inference_mode():
        prefix = SharedPrefix(organism, token_ids(chats))
        prefix.run()

        for batch in text_batches(prefix, token_ids(chats), width_step=WIDTH_STEP):
            if replacement is None:
                hidden = prefix.forward(batch.padded)
            else:
                with visiting(organism.model, [block], _splice(_counted(batch, prefix), replacement)):
                    hidden = prefix.forward(batch.padded)
            sums[batch.rows] = _losses(organism, hidden, batch, [chats[row] for row in batch.rows], prefix.length)
    return sums


def _splice(counted: Tensor, replacement: Callable[[Tensor], Tensor]) -> Callable[[int, Tensor], Tensor]:
    """Return a hook that replaces a block's output at the tokens that count."""

    def visit(_block: int, hidden: Tensor) -> Tensor:
        places, out = counted.to(hidden.device), hidden.clone()
        out[places] = replacement(hidden[places].float()).to(hidden.dtype)
        return out

    return visit


def _losses(
    organism: Organism, hidden: Tensor, batch: TextBatch, chats: Sequence[EncodedChat], shared: int
) -> np.ndarray:
    """Return [rows, 2]: the nats and number of the answer tokens that some token after the prefix predicts."""
    wanted = np.zeros(batch.padded.ids.shape, dtype=bool)
    for row, chat in enumerate(chats):
        places = chat.answer_positions - shared
        wanted[row, places[places >= 1]] = True
    chosen = torch.from_numpy(wanted).to(hidden.device)
    logits = head_logits(organism.model, hidden[:, :-1][chosen[:, 1:]])
    targets = batch.padded.ids.to(hidden.device)[chosen]
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    sums = torch.zeros(len(chats), dtype=torch.float64)
    sums.index_add_(0, chosen.nonzero()[:, 0].cpu(), nats.cpu().double())
    return np.stack([sums.numpy(), wanted.sum(axis=1)], axis=1)
