"""Where the tokens of a forward pass stand in their texts, for changes that are made at some of them alone.

Whoever runs a decoder tells it around each pass (`telling`), which costs nothing unless somebody asked (`asked_for`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emscope.errors import UserError

_models: ContextVar[tuple[int, ...]] = ContextVar("models_whose_positions_are_asked_for", default=())
_current: ContextVar[TokenPositions | None] = ContextVar("positions_of_this_pass", default=None)


@dataclass(frozen=True)
class TokenPositions:
    """The tokens of one forward pass.

    Attributes:
        places: place of each token in its text, from 0, int [rows, tokens]; -1 for padding.
        prompts: tokens of each text before its answer begins, int [rows]; None where nobody said.
    """

    places: Tensor
    prompts: Tensor | None

    def chosen(self, positions: str | slice) -> Tensor:
        """Return which tokens are meant, bool [rows, tokens]: those of the `prompt`, the `answer`, or a slice.

        Raises:
            UserError: this pass does not say where the answers begin.
        """
        if isinstance(positions, slice):
            start, stop, step = positions.start or 0, positions.stop, positions.step or 1
            inside = (self.places >= start) & ((self.places - start) % step == 0)
            return inside if stop is None else inside & (self.places < stop)
        if self.prompts is None:
            raise UserError(
                "This reading does not say where the answers begin: act at all positions, or at a slice of them."
            )
        before = self.places < self.prompts[:, None]
        return (before if positions == "prompt" else ~before) & (self.places >= 0)


def places_of(mask: Tensor, first: int = 0) -> Tensor:
    """Return the place of each token, from `first`, by a mask [rows, tokens] that is 0 for padding; -1 there."""
    return torch.where(mask > 0, mask.cumsum(dim=1) - 1 + first, -1)


@contextmanager
def asked_for(model: nn.Module) -> Iterator[None]:
    """Have every pass of the model inside this context tell where its tokens stand."""
    token = _models.set((*_models.get(), id(model)))
    try:
        yield
    finally:
        _models.reset(token)


def is_asked_for(model: nn.Module) -> bool:
    """Say whether somebody asked where the model's tokens stand."""
    return id(model) in _models.get()


@contextmanager
def telling(model: nn.Module, tell: Callable[[], TokenPositions]) -> Iterator[None]:
    """Tell where the tokens of the passes inside this context stand, if somebody asked."""
    if not is_asked_for(model):
        yield
        return
    token = _current.set(tell())
    try:
        yield
    finally:
        _current.reset(token)


def current_positions(rows: int, tokens: int) -> TokenPositions:
    """Return where the tokens of the pass that is running stand.

    Raises:
        UserError: whoever runs it does not say, or runs others.
    """
    told = _current.get()
    if told is None or told.places.shape != (rows, tokens):
        raise UserError(
            "Where the tokens of this forward pass stand is not known: act at all positions, or ask and read the model "
            "by emscope's own functions."
        )
    return told
