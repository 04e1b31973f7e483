"""What is done to the residual stream: ablate or steer along directions, as context managers.

An intervention acts on every position of prefill and of every decoding step, at the hook point where its directions
were found. At strength 0 no hook is placed, so results are bit-identical.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from emscope.errors import UserError
from emscope.organisms.blocks import Site, check_blocks, find_blocks, visiting
from emscope.organisms.models import Organism
from emscope.residual.capture import organism_width
from emscope.residual.directions import Directions

Mode = Literal["centred", "project-out", "subtract"]
MODES: tuple[Mode, ...] = ("centred", "project-out", "subtract")


@dataclass(frozen=True)
class Intervention:
    """A change of the residual stream.

    `centred`: h ← h − strength · ((h − μ)·d̂) d̂ with μ the aligned mean; `project-out`: the same with μ = 0 (the
    homework's); `subtract`: h ← h − strength · v with v as long as the mean difference.

    Attributes:
        directions: one direction a block.
        mode: what is done.
        blocks: where it is done.
        strength: 0 changes nothing; 1 removes (or subtracts) the whole.
        source_block: use this block's direction everywhere; None uses each block's own.
    """

    directions: Directions
    mode: Mode
    blocks: tuple[int, ...]
    strength: float = 1.0
    source_block: int | None = None

    def __post_init__(self) -> None:
        """Refuse modes and blocks that do not exist."""
        if self.mode not in MODES:
            raise UserError(f"Unknown mode {self.mode!r}: use one of {', '.join(MODES)}.")
        wanted = {*self.blocks} if self.source_block is None else {self.source_block}
        missing = sorted(wanted - {*self.directions.blocks})
        if missing:
            raise UserError(f"The directions have no block {missing[0]}; they have {list(self.directions.blocks)}.")

    def describe(self) -> str:
        """Return the intervention in a few words."""
        first, last = min(self.blocks), max(self.blocks)
        where = f"block {first}" if first == last else f"{len(self.blocks)} blocks {first}-{last}"
        return f"{self.mode} at {where}, strength {self.strength:g}"


@contextmanager
def applied(organism: Organism, intervention: Intervention | None) -> Iterator[None]:
    """Have the intervention act on every forward pass of the organism inside this context.

    Raises:
        UserError: directions of another width, or a block that the model does not have.
    """
    if intervention is None or intervention.strength == 0:
        yield
        return
    n_blocks = len(find_blocks(organism.model))
    intervention.directions.check_width(organism_width(organism), n_blocks)
    blocks = check_blocks(intervention.blocks, n_blocks)
    table = {block: _Operator(intervention, block, organism.device) for block in blocks}
    site: Site = "resid_pre" if intervention.directions.construction.site == "resid_pre" else "resid_post"
    with visiting(organism.model, blocks, lambda block, hidden: table[block](hidden), site):
        yield


class _Operator:
    """The change at one block, computed in float32."""

    def __init__(self, intervention: Intervention, block: int, device: torch.device) -> None:
        directions = intervention.directions
        row = directions.blocks.index(intervention.source_block if intervention.source_block is not None else block)
        own = directions.blocks.index(block) if block in directions.blocks else row
        unit = directions.units[row]
        aligned = float(directions.negative_mean[own] @ unit) if intervention.mode == "centred" else 0.0
        self.mode, self.strength, self.target = intervention.mode, intervention.strength, aligned
        self.unit = _tensor(unit, device)
        self.vector = _tensor(directions.vectors[row], device)

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.mode == "subtract":
            return (hidden.float() - self.strength * self.vector).to(hidden.dtype)
        wide = hidden.float()
        excess = wide @ self.unit - self.target
        return (wide - self.strength * excess[..., None] * self.unit).to(hidden.dtype)


def _tensor(array: np.ndarray | Any, device: torch.device) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32, device=device)
