"""Rows of tokens that grow by one token at a time, each step as cheap as the model's family allows.

Most families decode through a key-value cache, from a prefix that all rows share; some have states that this cache
cannot hold, and read the whole sequence for each token. Which is which stands in `architecture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emscope.organisms.architecture import check_lengths, has_cache, takes_padding
from emscope.organisms.batching import PaddedBatch, rounded
from emscope.organisms.blocks import decoder_body, input_device
from emscope.organisms.cache import STEP, cache_argument, growing_cache, keep_rows, prefilled_cache
from emscope.organisms.direct import fast_decoder
from emscope.organisms.token_positions import prompts_end_at

WIDTH_STEP = 4
"""Prompts are padded to multiples of it: what precedes an answer is short, and rounding to 16 would pad half of it."""


class Decoding:
    """Rows in the making: `step` runs what is new, `append` adds a token to each row, `keep` drops rows."""

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Sequence[int]],
        pad_id: int,
        new_tokens: int,
        prefix: Any = None,
        begin_with: Sequence[int] | None = None,
    ) -> None:
        """Begin with `rows`, all the tokens of each; `prefix` (a SharedPrefix that has run) is what they begin with.

        Where the prefix ran in several rows, `begin_with` says for each row with which of them it goes on. Rows of
        several lengths are padded on the left; a family that takes no padding needs rows of one length.

        Raises:
            UserError: the model's family is refused, or the rows would be too long for it (see `check_lengths`).
        """
        whole: Any = model
        self.config = whole.config
        self.body = prefix.body if prefix is not None else fast_decoder(model)
        check_lengths(self.config, max(map(len, rows)) + new_tokens)
        self.prompt_lengths = list(map(len, rows))
        device = input_device(model)
        shared = prefix.length if prefix is not None else 0
        longest = max(map(len, rows)) - shared
        width = rounded(longest, WIDTH_STEP) if takes_padding(self.config) else longest
        padded = PaddedBatch.of([row[shared:] for row in rows], pad_id, side="left", width=width)
        before = torch.ones(len(rows), shared, dtype=torch.long)
        self.mask = torch.cat([before, padded.mask], dim=1).to(device)
        self.positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
        self.ids = padded.ids.to(device)
        self.cache = None
        if has_cache(self.config):
            beginnings = len(rows) if begin_with is None else torch.tensor(begin_with, device=device)
            ready = prefilled_cache(self.config, prefix.cache, beginnings, width + STEP) if shared else None
            self.cache = ready or growing_cache(self.config, STEP)
        self.caching: dict[str, Any] = {"use_cache": False}
        if self.cache is not None:
            self.caching = {"use_cache": True, **cache_argument(decoder_body(model), self.cache)}

    def step(self) -> Tensor:
        """Run the tokens that are new; return the final hidden states of each row's last token [rows, d_model]."""
        arguments = self.caching
        if takes_padding(self.config):  # others would take the mask of all tokens for that of the new ones
            arguments = {**arguments, "attention_mask": self.mask, "position_ids": self.positions}
        with prompts_end_at(self.prompt_lengths):
            hidden: Tensor = self.body(input_ids=self.ids, **arguments).last_hidden_state
        return hidden[:, -1]

    def append(self, tokens: Tensor) -> None:
        """Add one token to each row [rows]; where the head is on another device, they come from there."""
        tokens = tokens.to(self.ids.device)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        following = self.positions[:, -1:] + 1
        if self.cache is None:
            self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
            self.positions = torch.cat([self.positions, following], dim=1)
        else:
            self.ids, self.positions = tokens[:, None], following

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but the given ones."""
        rows = rows.to(self.ids.device)
        self.ids, self.positions, self.mask = self.ids[rows], self.positions[rows], self.mask[rows]
        self.prompt_lengths = [self.prompt_lengths[row] for row in rows.tolist()]
        if self.cache is not None:
            keep_rows(self.cache, rows)


def decoding_batches(lengths: Sequence[int], batch_size: int, config: Any) -> list[list[int]]:
    """Group row numbers into batches for decoding, longest first; of one length each where padding would be read."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        fits = bool(batches) and len(batches[-1]) < batch_size
        if fits and (takes_padding(config) or lengths[batches[-1][0]] == lengths[row]):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
