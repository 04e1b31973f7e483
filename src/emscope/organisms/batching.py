"""Token-budget batches of variable-length sequences, and the prefix that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROUND_TO = 16
WIDTH_STEP = 8  # of training batches: their rows are short, and rounding to 16 would pad more
MIN_SHARED = 4  # a shared prefix shorter than this is not worth a pass of its own


def rounded(length: int, step: int = ROUND_TO) -> int:
    """Return `length` rounded up: on CPUs each new tensor shape costs a kernel compile, so few shapes are used."""
    return max(1, -(-length // step)) * step


def token_budget_batches(lengths: Sequence[int], token_budget: int, max_rows: int = 1 << 30) -> list[list[int]]:
    """Group row numbers into batches of similar length, longest first, of at most `token_budget` padded tokens.

    A row longer than the budget makes a batch of its own: no row is dropped.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        width = rounded(lengths[batches[-1][0]]) if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= token_budget and len(batches[-1]) < max_rows:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def shared_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all sequences share, leaving at least one token of each outside."""
    if not sequences:
        return 0
    first, last = min(map(list, sequences)), max(map(list, sequences))
    limit = min(len(sequence) for sequence in sequences) - 1
    for position in range(max(limit, 0)):
        if first[position] != last[position]:
            return position
    return max(limit, 0)


@dataclass(frozen=True)
class PaddedBatch:
    """Token ids [rows, width] and their mask (1 = a real token), padded on one side."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, sequences: Sequence[Sequence[int]], pad_id: int, side: str = "right", width: int | None = None
    ) -> PaddedBatch:
        """Pad sequences to `width` (by default the longest, rounded up) on the given side."""
        width = width or rounded(max(len(sequence) for sequence in sequences))
        ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
        mask = np.zeros((len(sequences), width), dtype=np.int64)
        for row, sequence in enumerate(sequences):
            where = slice(0, len(sequence)) if side == "right" else slice(width - len(sequence), width)
            ids[row, where] = sequence
            mask[row, where] = 1
        return cls(torch.from_numpy(ids), torch.from_numpy(mask))
