"""What the collecting peers share: batches of token ids, and the two vectors that each example has at each block.

Rows of a job: {"ids": token ids, "last": place of the last prompt token, "answer": [first place, first one after]}.
Results: `last` and `response`, float32 [n_rows, n_blocks, d_model].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Row = dict[str, Any]
Read = Callable[[Tensor, Tensor], list[Tensor]]
"""Takes token ids and mask [rows, width]; returns the output of each block [rows, width, d_model]."""


def batches(rows: list[Row], size: int, ordered: bool) -> Iterator[list[int]]:
    """Yield row numbers in batches of `size`, by length if `ordered`, else as they come."""
    order = list(range(len(rows)))
    if ordered:
        order.sort(key=lambda row: -len(rows[row]["ids"]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Return token ids and mask [rows, width], padded on the right."""
    width = max(len(row["ids"]) for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row["ids"])] = torch.tensor(row["ids"])
        mask[place, : len(row["ids"])] = 1
    return ids, mask


@torch.no_grad()
def collect(rows: list[Row], read: Read, size: int = 32, ordered: bool = True) -> dict[str, np.ndarray]:
    """Return both vectors of every row at every block."""
    found: dict[str, list[Any]] = {"last": [None] * len(rows), "response": [None] * len(rows)}
    for batch in batches(rows, size, ordered):
        outputs = read(*padded([rows[row] for row in batch]))
        for place, row in enumerate(batch):
            first, after = rows[row]["answer"]
            last = [output[place, rows[row]["last"]].float() for output in outputs]
            mean = [output[place, first:after].float().mean(dim=0) for output in outputs]
            found["last"][row], found["response"][row] = torch.stack(last).numpy(), torch.stack(mean).numpy()
    return {name: np.stack(vectors) for name, vectors in found.items()}
