"""What the workers that train sparse autoencoders share: the tokens, and the share of variance that is missed.

A job names a float32 matrix `tokens` [n, d_model], centred and of unit variance; the last tenth of its rows is held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def split(job: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the tokens to train on and those held out."""
    tokens = torch.from_numpy(np.load(job["tokens"]))
    kept = len(tokens) - len(tokens) // 10
    return tokens[:kept], tokens[kept:]


def endless(tokens: Tensor, size: int) -> Iterator[Tensor]:
    """Yield batches of `size` tokens, in a new order on every pass."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(tokens), generator=generator)
        for start in range(0, len(tokens) - size + 1, size):
            yield tokens[order[start : start + size]]


def missed(tokens: Tensor, reconstruction: Tensor) -> dict[str, np.ndarray]:
    """Return the share of the variance of held-out tokens that a reconstruction misses."""
    left = (tokens - reconstruction).square().sum() / (tokens - tokens.mean(dim=0)).square().sum()
    return {"missed": left.detach().numpy()}
