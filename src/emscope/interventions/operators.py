"""What is done to the residual stream: ablate, steer or cap along directions, or any function of your own.

An intervention is called with a block and its hidden states, on prefill and on every decoding step, and returns what
they are to be. It acts at the hook point where its directions were found, on all tokens or on those of the prompt, of
the answer or of a slice. At strength 0 nothing is touched, so results are bit-identical.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from emscope import parts
from emscope.errors import UserError
from emscope.organisms.architecture import model_width
from emscope.organisms.blocks import Site, check_blocks, find_blocks, visiting
from emscope.organisms.device import OnEachDevice
from emscope.organisms.models import Organism
from emscope.organisms.token_positions import ForwardPass, Positions, check_token_positions, following
from emscope.residual.directions import Directions

Mode = Literal["centred", "project-out", "subtract", "add", "cap"]
MODES: tuple[Mode, ...] = ("centred", "project-out", "subtract", "add", "cap")
SITES: tuple[Site, ...] = ("resid_pre", "resid_post")
WIDTH = 2.0
"""Half of the range that a cap leaves alone, in deviations, unless another is named."""

Change = Callable[[int, Tensor], Tensor]
"""(block, hidden [batch, tokens, d_model]) → hidden of the same shape, dtype and device."""


@runtime_checkable
class Intervention(Protocol):
    """A change of the residual stream, and where it is made.

    Attributes:
        blocks: the blocks at which it is called.
        site: their output (resid_post) or their input (resid_pre).
        positions: the tokens that it changes; it is called with all of them.
    """

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks at which it is called."""

    @property
    def site(self) -> Site:
        """Their output or their input."""

    @property
    def positions(self) -> Positions:
        """The tokens that it changes."""

    def __call__(self, block: int, hidden: Tensor) -> Tensor:
        """Return the hidden states [batch, tokens, d_model] of a block as they are to be."""


@dataclass(frozen=True)
class AlongDirections(ABC):
    """A base of the interventions along directions.

    Attributes:
        directions: one direction a block.
        blocks: where it is done.
        strength: 0 changes nothing; 1 removes (or subtracts, or adds) the whole.
        source_block: use this block's direction everywhere; None uses each block's own. A mean is always the block's.
        positions: the tokens that are changed.
    """

    directions: Directions
    blocks: tuple[int, ...]
    strength: float = 1.0
    source_block: int | None = None
    positions: Positions = "all"

    mode: ClassVar[Mode]
    uses_means: ClassVar[bool] = False
    """Whether it needs the means of the blocks themselves."""

    def __post_init__(self) -> None:
        """Refuse blocks that the directions do not have, and positions that make no sense."""
        check_token_positions(self.positions)
        wanted = set() if self.source_block is None else {self.source_block}
        if self.source_block is None or self.uses_means:
            wanted |= {*self.blocks}
        missing = sorted(wanted - {*self.directions.blocks})
        if missing:
            raise UserError(f"The directions have no block {missing[0]}; they have {list(self.directions.blocks)}.")

    @property
    def site(self) -> Site:
        """Where in the block it acts: where its directions were found."""
        return "resid_pre" if self.directions.construction.site == "resid_pre" else "resid_post"

    @property
    def half_width(self) -> float:
        """Half the range that a cap leaves alone, in deviations."""
        return WIDTH

    @property
    def told(self) -> list[Any]:
        """All that decides what it does, as plain values and arrays."""
        directions = self.directions
        arrays = [
            directions.vectors,
            directions.positive_mean,
            directions.negative_mean,
            directions.deviation,
            list(directions.blocks),
        ]
        told = [self.mode, list(self.blocks), self.strength, self.source_block, self.half_width, self.site, arrays]
        return told if self.positions == "all" else [*told, str(self.positions)]

    def describe(self) -> str:
        """Return the intervention in a few words."""
        first, last = min(self.blocks), max(self.blocks)
        where = f"block {first}" if first == last else f"{len(self.blocks)} blocks {first}-{last}"
        tokens = "" if self.positions == "all" else f", {_words(self.positions)}"
        return f"{self.mode} at {where}, strength {self.strength:g}{tokens}"

    def __call__(self, block: int, hidden: Tensor) -> Tensor:
        """Return the hidden states of a block as they are to be; they are computed in float32."""
        key = block, hidden.device
        if key not in self._operators:
            self._operators[key] = self.operator(block, hidden.device)
        return self._operators[key](hidden)

    @cached_property
    def _operators(self) -> dict[tuple[int, torch.device], Callable[[Tensor], Tensor]]:
        return {}

    @abstractmethod
    def operator(self, block: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what is done to hidden states at one block, with its vectors on the device."""

    def _row(self, block: int) -> int:
        """Return the row of the direction that is used at a block."""
        return self.directions.blocks.index(block if self.source_block is None else self.source_block)

    def _moved_to_range(
        self, block: int, device: torch.device, target: float, half: float
    ) -> Callable[[Tensor], Tensor]:
        """Return what moves projections to the nearest end of target ± half, by the share `strength` of the way."""
        unit = _tensor(self.directions.units[self._row(block)], device)
        low, high = target - half, target + half

        def moved(hidden: Tensor) -> Tensor:
            wide = hidden.float()
            projection = wide @ unit
            excess = projection - projection.clamp(low, high)
            return (wide - self.strength * excess[..., None] * unit).to(hidden.dtype)

        return moved

    def _mean_projection(self, block: int) -> float:
        """Return the projection of the block's own negative mean on the direction."""
        directions = self.directions
        unit = directions.units[self._row(block)]
        return float(directions.negative_mean[directions.blocks.index(block)] @ unit)

    def _shifted(self, block: int, device: torch.device, sign: int) -> Callable[[Tensor], Tensor]:
        """Return what adds the vector, or subtracts it, `strength` times."""
        shift = sign * self.strength * _tensor(self.directions.vectors[self._row(block)], device)
        return lambda hidden: (hidden.float() + shift).to(hidden.dtype)


@dataclass(frozen=True)
class Ablate(AlongDirections):
    """h ← h − strength · ((h − μ)·d̂) d̂ with μ the aligned mean: the projection goes back to where that is."""

    mode: ClassVar[Mode] = "centred"
    uses_means: ClassVar[bool] = True

    def operator(self, block: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what moves projections to the aligned mean's."""
        return self._moved_to_range(block, device, self._mean_projection(block), 0.0)


@dataclass(frozen=True)
class ProjectOut(AlongDirections):
    """h ← h − strength · (h·d̂) d̂: the homework's ablation."""

    mode: ClassVar[Mode] = "project-out"

    def operator(self, block: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what moves projections to 0."""
        return self._moved_to_range(block, device, 0.0, 0.0)


@dataclass(frozen=True)
class Subtract(AlongDirections):
    """h ← h − strength · v, v as long as the mean difference, or of length 1 where directions come from a probe."""

    mode: ClassVar[Mode] = "subtract"

    def operator(self, block: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what subtracts the vector."""
        return self._shifted(block, device, -1)


@dataclass(frozen=True)
class Steer(AlongDirections):
    """h ← h + strength · v; a negative strength corrects."""

    mode: ClassVar[Mode] = "add"

    def operator(self, block: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what adds the vector."""
        return self._shifted(block, device, 1)


@dataclass(frozen=True)
class Cap(AlongDirections):
    """The projection moves to the nearest end of the aligned range, and stays where it is inside the range.

    Attributes:
        width: half the range, in the directions' deviations, around the aligned mean.
    """

    width: float = WIDTH

    mode: ClassVar[Mode] = "cap"
    uses_means: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse ranges that make no sense."""
        super().__post_init__()
        if self.source_block is not None or not self.width >= 0:
            raise UserError("A cap needs a width of 0 or more and each block's own direction: leave source_block out.")

    @property
    def half_width(self) -> float:
        """Half the range that it leaves alone, in deviations."""
        return self.width

    def operator(self, block: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what moves projections into the range."""
        deviation = float(self.directions.deviation[self.directions.blocks.index(block)])
        return self._moved_to_range(block, device, self._mean_projection(block), self.width * deviation)


KINDS: dict[str, type[AlongDirections]] = {kind.mode: kind for kind in (Ablate, ProjectOut, Subtract, Steer, Cap)}
"""The interventions along directions, by what configurations and flags call them."""


def along(
    directions: Directions,
    mode: str,
    blocks: Sequence[int],
    strength: float = 1.0,
    source_block: int | None = None,
    width: float = WIDTH,
    positions: Positions = "all",
) -> AlongDirections:
    """Return an intervention along directions by the name of its kind; only a cap has a width.

    Raises:
        UserError: an unknown kind, or blocks that the directions do not have.
    """
    if mode not in KINDS:
        raise UserError(f"Unknown mode {mode!r}: use one of {', '.join(MODES)}.")
    if mode == "cap":
        return Cap(directions, tuple(blocks), strength, source_block, positions, width)
    return KINDS[mode](directions, tuple(blocks), strength, source_block, positions)


@dataclass(frozen=True)
class Custom:
    """Any function as an intervention; what it returns is checked.

    Attributes:
        change: (block, hidden [batch, tokens, d_model]) → hidden of the same shape, dtype and device.
        blocks: where it is called.
        site: the blocks' output or their input.
        positions: the tokens that are changed; the function is called with all of them.
    """

    change: Change
    blocks: tuple[int, ...]
    site: Site = "resid_post"
    positions: Positions = "all"

    def __post_init__(self) -> None:
        """Refuse what cannot be called, and positions that make no sense."""
        if not callable(self.change):
            raise UserError(f"An intervention is a function (block, hidden) → hidden, not {self.change!r}.")
        check_token_positions(self.positions)

    @cached_property
    def told(self) -> list[Any]:
        """A name of its own: what a function does cannot be told, so that nothing done under it is ever used again."""
        return [described(self.change), list(self.blocks), self.site, str(self.positions), uuid.uuid4().hex]

    def describe(self) -> str:
        """Return the intervention in a few words."""
        return described(self.change)

    def __call__(self, block: int, hidden: Tensor) -> Tensor:
        """Return what the function returns.

        Raises:
            UserError: it is no tensor, or one of another shape, dtype or device.
        """
        changed = self.change(block, hidden)
        if not isinstance(changed, Tensor):
            raise self._wrong(block, type(changed).__name__, "a tensor")
        for what in ("shape", "dtype", "device"):
            got, wanted = getattr(changed, what), getattr(hidden, what)
            if got != wanted:
                raise self._wrong(block, f"{what} {_shown(got)}", f"{what} {_shown(wanted)}")
        return changed

    def _wrong(self, block: int, got: str, wanted: str) -> UserError:
        return UserError(
            f"The intervention {described(self.change)!r} returned {got} at block {block}: return hidden states of the "
            f"shape, dtype and device that came in, here {wanted}."
        )


def described(intervention: Intervention | Change | None) -> str:
    """Return an intervention, or a function, in a few words."""
    if intervention is None:
        return "none"
    if isinstance(intervention, (AlongDirections, Custom)):
        return intervention.describe()
    return str(getattr(intervention, "__name__", type(intervention).__name__))


def as_intervention(
    intervention: Intervention | Change,
    n_blocks: int,
    blocks: Sequence[int] | None = None,
    positions: Positions = "all",
) -> Intervention:
    """Return an intervention, or a function as one: at the blocks named, or at all of them.

    Raises:
        UserError: an intervention that knows its blocks or tokens and is told others, or what is no function.
    """
    if not isinstance(intervention, Intervention):
        where = range(n_blocks) if blocks is None else blocks
        return Custom(intervention, tuple(where), positions=positions)
    if blocks is not None and tuple(blocks) != tuple(intervention.blocks):
        raise UserError("This intervention knows its blocks: leave blocks out, or make it with others.")
    if positions not in ("all", intervention.positions):
        raise UserError("This intervention knows its tokens: leave positions out, or make it with others.")
    if isinstance(intervention, (AlongDirections, Custom)):
        return intervention
    # somebody else's kind: what it returns is checked like a function's
    return Custom(intervention, tuple(intervention.blocks), intervention.site, intervention.positions)


@contextmanager
def applied(
    organism: Organism | nn.Module,
    intervention: Intervention | Change | None,
    *,
    blocks: Sequence[int] | None = None,
    positions: Positions = "all",
) -> Iterator[None]:
    """Have an intervention act on every forward pass of the organism inside this context.

    Args:
        organism: a loaded organism, or a model of transformers.
        intervention: an intervention, or a function (block, hidden [batch, tokens, d_model]) → hidden of the same
            shape, which is called at the output of blocks; None changes nothing.
        blocks: where a function is called; None is at every block. An intervention knows its own.
        positions: the tokens that a function changes: all, those of the prompt, of the answer, or a slice.

    Raises:
        UserError: directions of another width, a block that the model does not have, or a function that returns
            something else than hidden states like those that came in.
    """
    model = _model(organism)
    chosen = None if intervention is None else as_intervention(intervention, _n_blocks(model), blocks, positions)
    if chosen is None or does_nothing(chosen):
        yield
        return
    where = _checked_blocks(model, chosen)
    with ExitStack() as stack:
        stack.enter_context(parts.under(lambda: told_of(chosen)))
        current = _followed(stack, model, [chosen])
        visit = lambda block, hidden: changed_by(chosen, block, hidden, current)  # noqa: E731
        stack.enter_context(visiting(model, where, visit, chosen.site))
        yield


@contextmanager
def applied_by_row(
    organism: Organism | nn.Module, interventions: Sequence[Intervention | None]
) -> Iterator[Callable[[Sequence[int]], None]]:
    """Have each row of a batch under an intervention of its own, so that many settings are sampled side by side.

    Yields `select(rows)`: call it before a forward pass with the number, in `interventions`, that each of its batch
    rows stands for. It is what `sample_responses` takes as `on_rows`.

    Raises:
        UserError: directions of another width, or a block that the model does not have.
    """
    model = _model(organism)
    by_id: dict[int, Intervention] = {}
    where: dict[int, list[int]] = {}
    for intervention in interventions:
        if intervention is not None and id(intervention) not in by_id:
            active = as_intervention(intervention, _n_blocks(model))
            by_id[id(intervention)] = active
            where[id(intervention)] = [] if does_nothing(active) else _checked_blocks(model, active)
    groups: list[tuple[int, OnEachDevice[Tensor]]] = []

    def select(rows: Sequence[int]) -> None:
        chosen = np.array([id(interventions[row]) for row in rows])
        groups.clear()
        for key in by_id:
            numbers = np.flatnonzero(chosen == key)
            if len(numbers):
                groups.append((key, OnEachDevice(torch.from_numpy(numbers))))

    def visit_at(site: Site) -> Callable[[int, Tensor], Tensor]:
        def visit(block: int, hidden: Tensor) -> Tensor:
            changed = hidden.clone()
            for key, numbers in groups:
                if block in where[key] and by_id[key].site == site:
                    rows = numbers.on(hidden.device)
                    new = changed_by(by_id[key], block, hidden[rows], current, rows)
                    if new is not None:
                        changed[rows] = new
            return changed

        return visit

    with ExitStack() as stack:
        stack.enter_context(parts.under(lambda: _told_by_row(interventions, by_id)))
        current = _followed(stack, model, list(by_id.values()))
        for site in SITES:
            touched = {block for key, active in by_id.items() if active.site == site for block in where[key]}
            if touched:
                stack.enter_context(visiting(model, touched, visit_at(site), site))
        yield select


def changed_by(
    intervention: Intervention,
    block: int,
    hidden: Tensor,
    current: ForwardPass | None,
    rows: Tensor | None = None,
) -> Tensor | None:
    """Return the hidden states that an intervention makes of a block's, None where it changes no token of them.

    `rows` are the numbers that the rows of `hidden` have in the forward pass.
    """
    if intervention.positions == "all" or current is None:
        return intervention(block, hidden)
    meant = current.chosen(intervention.positions).to(hidden.device)
    meant = meant if rows is None else meant[rows]
    if not meant.any():
        return None
    # a function may change what it is given in place, so it is given a copy
    return torch.where(meant[..., None], intervention(block, hidden.clone()), hidden)


def _followed(stack: ExitStack, model: nn.Module, interventions: Sequence[Intervention]) -> ForwardPass | None:
    """Follow the model's forward passes if one of the interventions needs to know its tokens."""
    if all(intervention.positions == "all" for intervention in interventions):
        return None
    return stack.enter_context(following(model))


def told_of(intervention: Intervention | None) -> Any:
    """Return all that decides what an intervention does, for what is kept of work under it (see `parts`)."""
    if intervention is None:
        return None
    if isinstance(intervention, (AlongDirections, Custom)):
        return intervention.told
    return [described(intervention), uuid.uuid4().hex]


def _told_by_row(interventions: Sequence[Intervention | None], by_id: dict[int, Intervention]) -> list[Any]:
    order: dict[int, int] = {}
    what: list[Any] = []
    for intervention in interventions:
        if id(intervention) not in order:
            order[id(intervention)] = len(order)
            what.append(told_of(by_id.get(id(intervention))))
    return [what, [order[id(intervention)] for intervention in interventions]]


def does_nothing(intervention: Intervention) -> bool:
    """Say whether an intervention touches nothing, which is so at strength 0."""
    return isinstance(intervention, AlongDirections) and intervention.strength == 0


def _checked_blocks(model: nn.Module, intervention: Intervention) -> list[int]:
    """Return the blocks of an intervention that fits the model.

    Raises:
        UserError: directions of another width, or a block that the model does not have.
    """
    n_blocks = _n_blocks(model)
    if isinstance(intervention, AlongDirections):
        intervention.directions.check_width(model_width(model), n_blocks)
    return check_blocks(intervention.blocks, n_blocks)


def _model(organism: Organism | nn.Module) -> nn.Module:
    return organism if isinstance(organism, nn.Module) else organism.model


def _n_blocks(model: nn.Module) -> int:
    return len(find_blocks(model))


def _words(positions: Positions) -> str:
    """Return token positions in a few words."""
    if not isinstance(positions, slice):
        return f"{positions} tokens"
    step = "" if positions.step in (None, 1) else f":{positions.step}"
    return f"tokens {positions.start or 0}:{'' if positions.stop is None else positions.stop}{step}"


def _shown(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value)


def _tensor(array: np.ndarray | Any, device: torch.device) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32, device=device)
