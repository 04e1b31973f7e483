"""Take features out of the residual stream: what an autoencoder says they write is subtracted.

h ← h − strength · Σⱼ aⱼ(h) wⱼ over the chosen features, at every position after the block; the autoencoder's error and
all other features stay. A token far from everything the autoencoder was made for is left alone: the first token of a
sequence, for example, has a huge activation in most models, and codes of it mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from emscope import parts
from emscope.organisms.blocks import find_blocks, visiting
from emscope.organisms.device import OnEachDevice
from emscope.organisms.models import Organism
from emscope.residual.capture import organism_width
from emscope.residual.features.autoencoder import SparseAutoencoder


@contextmanager
def features_removed(
    organism: Organism,
    autoencoder: SparseAutoencoder,
    features: Sequence[int],
    strength: float = 1.0,
    reach: float = float("inf"),
) -> Iterator[None]:
    """Have the features' contributions subtracted in every forward pass inside this context.

    `reach` is how far from the decoder's bias a token may lie and still be changed. With no features, or at strength
    0, no hook is placed.

    Raises:
        UserError: the autoencoder is for a model of another shape.
    """
    autoencoder.check_width(organism_width(organism), len(find_blocks(organism.model)))
    if not len(features) or strength == 0:
        yield
        return
    moved, chosen = OnEachDevice(autoencoder), OnEachDevice(torch.as_tensor(features))

    def visit(_block: int, hidden: Tensor) -> Tensor:
        wide, on_device = hidden.float(), moved.on(hidden.device)
        near = (wide - on_device.decoder_bias).norm(dim=-1) <= reach
        out = wide.clone()
        out[near] -= strength * on_device.written_by(wide[near], chosen.on(hidden.device))
        return out.to(hidden.dtype)

    def told() -> list[Any]:
        values = []
        for value in vars(autoencoder).values():
            values.append(value.cpu().numpy() if isinstance(value, Tensor) else value)
        return [values, list(features), strength, reach]

    with parts.under(told), visiting(organism.model, [autoencoder.block], visit):
        yield
