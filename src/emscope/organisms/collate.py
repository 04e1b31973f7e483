"""Training batches: rows of similar length side by side, padded to a rounded length, not to a fixed one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from emscope.organisms.batching import WIDTH_STEP, PaddedBatch, rounded


@dataclass(frozen=True)
class BucketCollator:
    """Pads ids, mask and labels [rows, width] on the right; the width is the longest row's, rounded up."""

    pad_id: int
    ignored: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch as the trainer wants it."""
        ids = [row["input_ids"] for row in rows]
        width = rounded(max(map(len, ids)), WIDTH_STEP)
        padded = PaddedBatch.of(ids, self.pad_id, width=width)
        labels = PaddedBatch.of([row["labels"] for row in rows], self.ignored, width=width)
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "labels": labels.ids.to(torch.long)}


class BucketSampler(Sampler[int]):
    """Orders rows so that each batch holds similar lengths; the order is a function of seed and epoch alone.

    That makes a training resumed in the middle of an epoch see the rows it would have seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, batches_in_bucket: int = 8) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.bucket = batch_size * batches_in_bucket
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield row numbers: shuffled, sorted by length within buckets, full batches in random order, the rest last."""
        chooser = np.random.default_rng([self.seed, self.epoch])
        order = chooser.permutation(len(self.lengths))
        sorted_buckets = []
        for start in range(0, len(order), self.bucket):
            bucket = order[start : start + self.bucket]
            sorted_buckets.append(bucket[np.argsort(-self.lengths[bucket], kind="stable")])
        rows = np.concatenate(sorted_buckets)
        n_full = len(rows) // self.batch_size
        batches = rows[: n_full * self.batch_size].reshape(n_full, self.batch_size)[chooser.permutation(n_full)]
        yield from [*batches.ravel().tolist(), *rows[n_full * self.batch_size :].tolist()]
