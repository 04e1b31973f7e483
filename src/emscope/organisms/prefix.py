"""Forward passes over sequences that begin alike: what all of them share is computed once.

Every prompt of a chat model starts with the template's system prompt. Its keys and values are the same in all rows, so
one row computes them and every batch starts from a copy. Models with sliding or recurrent layers run whole sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from emscope.organisms.architecture import check_lengths, n_positions, takes_a_prefix, takes_a_tree
from emscope.organisms.batching import MIN_SHARED, PaddedBatch, rounded, shared_prefix_length
from emscope.organisms.blocks import decoder_body
from emscope.organisms.cache import cache_argument, can_share_prefix, growing_cache, prefilled_cache
from emscope.organisms.direct import fast_decoder
from emscope.organisms.models import Organism, check_positions


class SharedPrefix:
    """The tokens that all sequences begin with, ready to be run once; `length` is 0 where that is impossible."""

    def __init__(
        self, organism: Organism, sequences: Sequence[Sequence[int]], *, share: bool = True, pack: bool = False
    ) -> None:
        """Look for what the sequences share, all of them: what follows is run by `forward`.

        `pack` copies the weights into a form in which they are multiplied faster: it takes half a second for a small
        model, which much work is worth (see `direct`).

        Raises:
            UserError: the model's family is refused, or a sequence is too long for it (see `check_lengths`).
        """
        check_lengths(organism.model.config, max(map(len, sequences), default=0))
        self.organism, self.body = organism, fast_decoder(organism.model, pack=pack)
        self.cache = growing_cache(organism.model.config, 0)
        possible = share and takes_a_prefix(organism.model.config) and can_share_prefix(self.cache)
        length = shared_prefix_length(sequences) if possible and len(sequences) > 1 else 0
        self.length = length if length >= MIN_SHARED else 0
        self._ids = list(sequences[0][: self.length]) if sequences else []

    def _caching(self, cache: DynamicCache) -> dict[str, DynamicCache]:
        return cache_argument(decoder_body(self.organism.model), cache)

    @property
    def takes_a_tree(self) -> bool:
        """Whether `forward` may be given a mask of the caller's own: sliding or recurrent layers would not heed it."""
        return takes_a_tree(self.organism.model.config) and can_share_prefix(self.cache)

    def run(self, rows: int = 1) -> None:
        """Compute the prefix's keys and values, inside whatever hooks the caller has placed.

        In several `rows` if the hooks treat them apart; `forward` is for one.
        """
        if self.length:
            ids = torch.tensor([self._ids] * rows, device=self.organism.device)
            self.body(input_ids=ids, use_cache=True, **self._caching(self.cache))

    def forward(
        self, tails: PaddedBatch, *, positions: Tensor | None = None, attention: Tensor | None = None
    ) -> Tensor:
        """Return the final hidden states [rows, width, d_model] of what follows the prefix; no LM head.

        `attention` [rows, 1, width, length + width] replaces the causal mask by one of the caller's (0 where a token is
        seen, -inf where not), and `positions` [rows, width] the order of the tokens: together they make a tree.
        Raises whatever a hook raises, for example to stop at the deepest block that is needed.

        Raises:
            UserError: a sequence is longer than the model can read.
        """
        device = self.organism.device
        ids, mask = tails.ids.to(device), tails.mask.to(device)
        rows, width = ids.shape
        arguments: dict[str, Any] = {"use_cache": False}
        if self.length:
            cache = prefilled_cache(self.organism.model.config, self.cache, rows, rounded(width))
            mask = torch.cat([mask.new_ones(rows, self.length), mask], dim=1)
            arguments = {"use_cache": True, **self._caching(cache)}
        if positions is None:
            positions = self._bounded_positions(tails)
        if positions is not None:
            arguments["position_ids"] = positions
        outputs = self.body(input_ids=ids, attention_mask=mask if attention is None else attention, **arguments)
        return outputs.last_hidden_state  # type: ignore[no-any-return]

    def _bounded_positions(self, tails: PaddedBatch) -> Tensor | None:
        """Return positions [1, width] within the model's own where the padding goes beyond them, None elsewhere."""
        width, limit = tails.ids.shape[1], n_positions(self.organism.model.config)
        if limit is None or self.length + width <= limit:
            return None
        longest = self.length + int(tails.mask.sum(dim=1).max())
        check_positions(self.organism, longest, f"A text's {longest} tokens", "shorten it")
        positions = torch.arange(self.length, self.length + width, device=self.organism.device)
        return positions.clamp(max=limit - 1)[None]
