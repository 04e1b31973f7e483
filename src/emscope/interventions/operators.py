"""What is done to the residual stream: ablate, steer or cap along directions, as context managers.

An intervention acts on every position of prefill and of every decoding step, at the hook point where its directions
were found. At strength 0 nothing is touched, so results are bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from emscope import parts
from emscope.errors import UserError
from emscope.interventions.positions import Positions, at_positions
from emscope.organisms.blocks import Site, check_blocks, find_blocks, visiting
from emscope.organisms.models import Organism
from emscope.organisms.token_positions import asked_for
from emscope.residual.capture import organism_width
from emscope.residual.directions import Directions

Mode = Literal["centred", "project-out", "subtract", "add", "cap"]
MODES: tuple[Mode, ...] = ("centred", "project-out", "subtract", "add", "cap")
SITES: tuple[Site, ...] = ("resid_pre", "resid_post")


@dataclass(frozen=True)
class Intervention:
    """A change of the residual stream.

    `centred`: h ← h − strength · ((h − μ)·d̂) d̂ with μ the aligned mean; `project-out`: the same with μ = 0 (the
    homework's); `subtract`: h ← h − strength · v with v as long as the mean difference, or of length 1 where directions
    come from a probe; `add`: h ← h + strength · v, where a negative strength corrects; `cap`: the projection on d̂ moves
    to the nearest end of the aligned range, the aligned mean ± width · deviation, by the share `strength` of the way,
    and stays where it is inside the range.

    Attributes:
        directions: one direction a block.
        mode: what is done.
        blocks: where it is done.
        strength: 0 changes nothing; 1 removes (or subtracts, or adds) the whole.
        source_block: use this block's direction everywhere; None uses each block's own. μ is always the block's own.
        width: half the range that `cap` leaves alone, in the directions' deviations.
    """

    directions: Directions
    mode: Mode
    blocks: tuple[int, ...]
    strength: float = 1.0
    source_block: int | None = None
    width: float = 2.0

    def __post_init__(self) -> None:
        """Refuse modes and blocks that do not exist."""
        if self.mode not in MODES:
            raise UserError(f"Unknown mode {self.mode!r}: use one of {', '.join(MODES)}.")
        wanted = set() if self.source_block is None else {self.source_block}
        if self.source_block is None or self.mode == "centred":  # every block's own direction, or its own mean
            wanted |= {*self.blocks}
        missing = sorted(wanted - {*self.directions.blocks})
        if missing:
            raise UserError(f"The directions have no block {missing[0]}; they have {list(self.directions.blocks)}.")
        if self.mode == "cap" and (self.source_block is not None or not self.width >= 0):
            raise UserError("A cap needs a width of 0 or more and each block's own direction: leave source_block out.")

    @property
    def site(self) -> Site:
        """Where in the block it acts: where its directions were found."""
        return "resid_pre" if self.directions.construction.site == "resid_pre" else "resid_post"

    @property
    def told(self) -> list[Any]:
        """All that decides what it does, as plain values and arrays."""
        made = self.directions
        arrays = [made.vectors, made.positive_mean, made.negative_mean, made.deviation, list(made.blocks)]
        return [self.mode, list(self.blocks), self.strength, self.source_block, self.width, self.site, arrays]

    def describe(self) -> str:
        """Return the intervention in a few words."""
        first, last = min(self.blocks), max(self.blocks)
        where = f"block {first}" if first == last else f"{len(self.blocks)} blocks {first}-{last}"
        return f"{self.mode} at {where}, strength {self.strength:g}"


@contextmanager
def applied(organism: Organism, intervention: Intervention | None, positions: Positions = "all") -> Iterator[None]:
    """Have the intervention act on every forward pass of the organism inside this context, at all tokens or at some.

    Raises:
        UserError: directions of another width, or a block that the model does not have.
    """
    table = _operators(organism, intervention)
    if intervention is None or not table:
        yield
        return
    visit = at_positions(lambda block, hidden: table[block](hidden), positions)
    where = str(positions)
    with (
        parts.under(lambda: intervention.told if where == "all" else [*intervention.told, where]),
        asked_for(organism.model) if where != "all" else nullcontext(),
        visiting(organism.model, table, visit, intervention.site),
    ):
        yield


@contextmanager
def applied_by_row(
    organism: Organism, interventions: Sequence[Intervention | None]
) -> Iterator[Callable[[Sequence[int]], None]]:
    """Have each row of a batch under an intervention of its own, so that many settings are sampled side by side.

    Yields `select(rows)`: call it before a forward pass with the number, in `interventions`, that each of its batch
    rows stands for. It is what `sample_responses` takes as `on_rows`.

    Raises:
        UserError: directions of another width, or a block that the model does not have.
    """
    names = {id(item): item for item in interventions}
    tables = {name: _operators(organism, item) for name, item in names.items()}
    groups: list[tuple[int, Tensor]] = []

    def select(rows: Sequence[int]) -> None:
        own = np.array([id(interventions[row]) for row in rows])
        found = [(name, np.flatnonzero(own == name)) for name in names]
        groups[:] = [(name, torch.from_numpy(mine).to(organism.device)) for name, mine in found if len(mine)]

    def visit_at(site: Site) -> Callable[[int, Tensor], Tensor]:
        def visit(block: int, hidden: Tensor) -> Tensor:
            changed = hidden.clone()
            for name, rows in groups:
                item = names[name]
                if block in tables[name] and item is not None and item.site == site:
                    changed[rows] = tables[name][block](hidden[rows])
            return changed

        return visit

    def told() -> list[Any]:
        order = {name: number for number, name in enumerate(names)}
        what = [None if item is None else item.told for item in names.values()]
        return [what, [order[id(item)] for item in interventions]]

    with ExitStack() as stack:
        stack.enter_context(parts.under(told))
        for site in SITES:
            touched = {block for name, item in names.items() if item and item.site == site for block in tables[name]}
            if touched:
                stack.enter_context(visiting(organism.model, touched, visit_at(site), site))
        yield select


def _operators(organism: Organism, intervention: Intervention | None) -> dict[int, _Operator]:
    """Return what is done at each block; nothing for no intervention, or one of strength 0."""
    if intervention is None or intervention.strength == 0:
        return {}
    n_blocks = len(find_blocks(organism.model))
    intervention.directions.check_width(organism_width(organism), n_blocks)
    blocks = check_blocks(intervention.blocks, n_blocks)
    return {block: _Operator(intervention, block, organism.device) for block in blocks}


class _Operator:
    """The change at one block, computed in float32: a shift, or the projection moved towards a range."""

    def __init__(self, intervention: Intervention, block: int, device: torch.device) -> None:
        directions, mode = intervention.directions, intervention.mode
        row = directions.blocks.index(intervention.source_block if intervention.source_block is not None else block)
        unit, self.strength = directions.units[row], intervention.strength
        target = half = 0.0
        if mode in ("centred", "cap"):
            own = directions.blocks.index(block)
            target = float(directions.negative_mean[own] @ unit)
            half = intervention.width * float(directions.deviation[own]) if mode == "cap" else 0.0
        self.low, self.high = target - half, target + half
        self.unit = _tensor(unit, device)
        self.shift: Tensor | None = None
        if mode in ("add", "subtract"):
            self.shift = (1 if mode == "add" else -1) * self.strength * _tensor(directions.vectors[row], device)

    def __call__(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        if self.shift is not None:
            return (wide + self.shift).to(hidden.dtype)
        projection = wide @ self.unit
        excess = projection - projection.clamp(self.low, self.high)
        return (wide - self.strength * excess[..., None] * self.unit).to(hidden.dtype)


def _tensor(array: np.ndarray | Any, device: torch.device) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32, device=device)
