"""Interventions at some tokens alone: those of the prompt, those of the answer, or a slice of each text."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from emscope.errors import UserError
from emscope.organisms.blocks import Visit
from emscope.organisms.token_positions import current_positions

Positions = Literal["all", "prompt", "answer"] | slice
"""Which tokens: a slice counts from the beginning of each text, the chat template's tokens included."""


def check_positions(positions: Positions) -> None:
    """Refuse positions that mean nothing.

    Raises:
        UserError: another word, or a slice that counts from the end, which moves while an answer is written.
    """
    if isinstance(positions, slice):
        numbers = (positions.start or 0, positions.stop or 0, (positions.step or 1) - 1)
        if min(numbers) < 0:
            raise UserError("A slice of positions counts from the beginning, forwards: give numbers of 0 or more.")
    elif positions not in ("all", "prompt", "answer"):
        raise UserError(f"Positions are 'all', 'prompt', 'answer' or a slice, not {positions!r}.")


def at_positions(change: Visit, positions: Positions) -> Visit:
    """Return a change of hidden states [rows, tokens, d_model] that leaves all other tokens as they are."""
    check_positions(positions)
    if isinstance(positions, str) and positions == "all":
        return change

    def visit(block: int, hidden: Tensor) -> Tensor | None:
        where = current_positions(*hidden.shape[:2]).chosen(positions)
        changed = change(block, hidden)
        return None if changed is None else torch.where(where[..., None].to(hidden.device), changed, hidden)

    return visit
