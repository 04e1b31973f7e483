"""Training batches padded to a rounded length, not to a fixed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emscope.organisms.batching import PaddedBatch


@dataclass(frozen=True)
class BucketCollator:
    """Pads ids, mask and labels [rows, width] on the right; the width is the longest row's, rounded up."""

    pad_id: int
    ignored: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch as the trainer wants it."""
        padded = PaddedBatch.of([row["input_ids"] for row in rows], self.pad_id)
        labels = PaddedBatch.of([row["labels"] for row in rows], self.ignored, width=padded.ids.shape[1])
        return {"input_ids": padded.ids, "attention_mask": padded.mask, "labels": labels.ids.to(torch.long)}
