"""Which token of its text each column of a forward pass is, and which of them belong to the prompt or the answer.

Positions are absolute: they count from the first token of a row's text, padding left out, whatever a key-value cache
holds already. Where a prompt ends, only whoever puts the texts into the model knows: sampling, reading and divergences
say it with `prompts_end_at`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emscope.errors import UserError
from emscope.organisms.blocks import decoder_body
from emscope.organisms.cache import CACHE_NAMES

Positions = Literal["all", "prompt", "answer"] | slice
"""All tokens, those of the prompt, those after it, or a slice of the text's tokens, counted from 0."""

PADDING = -1
_ends: ContextVar[tuple[int, ...] | None] = ContextVar("prompt_ends", default=None)


def check_token_positions(positions: Any) -> Positions:
    """Return token positions that make sense.

    Raises:
        UserError: another word, or a slice that counts from the end, which is not known while an answer grows.
    """
    if isinstance(positions, slice):
        for number in (positions.start, positions.stop, positions.step):
            if number is not None and (not isinstance(number, int) or number < 0):
                raise UserError(
                    f"The token positions {positions} are no slice of whole numbers from 0 on: count from a text's "
                    "first token, for example slice(0, 10)."
                )
        if positions.step == 0:
            raise UserError("A slice of token positions needs a step above 0.")
        return positions
    if positions not in ("all", "prompt", "answer"):
        raise UserError(f"Token positions are 'all', 'prompt', 'answer' or a slice, not {positions!r}.")
    known: Positions = positions
    return known


@contextmanager
def prompts_end_at(lengths: Sequence[int]) -> Iterator[None]:
    """Say how many tokens the prompt of each batch row has, for the forward passes inside this context."""
    token = _ends.set(tuple(map(int, lengths)))
    try:
        yield
    finally:
        _ends.reset(token)


class ForwardPass:
    """The forward pass that is going on in a decoder: what each of its tokens is.

    Attributes:
        places: position of each token in its row's text, [rows, tokens]; -1 for padding.
        ends: tokens of each row's prompt, [rows, 1]; None where nobody says.
    """

    def __init__(self) -> None:
        self.places = torch.zeros(0, 0, dtype=torch.long)
        self.ends: Tensor | None = None
        self._chosen: dict[str, Tensor] = {}

    def begin(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Take in what a decoder is called with."""
        self.places = places_of(given, named)
        self.ends = _prompt_ends(self.places, _cache_in(named))
        self._chosen = {}

    def chosen(self, positions: Positions) -> Tensor:
        """Return which tokens are meant, bool [rows, tokens]; padding never is.

        Raises:
            UserError: it takes the end of the prompt, which this pass does not tell.
        """
        key = str(positions)
        if key not in self._chosen:
            self._chosen[key] = self._choose(positions) & (self.places != PADDING)
        return self._chosen[key]

    def _choose(self, positions: Positions) -> Tensor:
        places = self.places
        if isinstance(positions, slice):
            start, step = positions.start or 0, positions.step or 1
            inside = (places >= start) & ((places - start) % step == 0)
            return inside if positions.stop is None else inside & (places < positions.stop)
        if positions == "all":
            return torch.ones_like(places, dtype=torch.bool)
        if self.ends is None:
            raise UserError(
                f"Nothing says where the prompts of this forward pass end, so its {positions} tokens are not known: "
                "put it inside `prompts_end_at(lengths)`, generate with a cache, or name a slice of positions."
            )
        return places < self.ends if positions == "prompt" else places >= self.ends


@contextmanager
def following(model: nn.Module) -> Iterator[ForwardPass]:
    """Yield what is known of the forward pass that is going on, kept up to date inside this context."""
    current = ForwardPass()

    def before(_body: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        current.begin(given, named)

    handle = decoder_body(model).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield current
    finally:
        handle.remove()


def places_of(given: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """Return the position of each token in its row's text, [rows, tokens], from what a decoder is called with.

    Raises:
        UserError: the attention mask is as long as neither the new tokens nor all tokens.
    """
    ids = given[0] if given else named.get("input_ids")
    tokens = named["inputs_embeds"] if ids is None else ids
    rows, width = tokens.shape[:2]
    before, mask, numbered = _tokens_before(_cache_in(named)), named.get("attention_mask"), named.get("position_ids")

    if isinstance(mask, Tensor) and mask.dim() == 2:
        if before is not None and mask.shape[1] not in (width, before + width):
            raise UserError(
                f"The attention mask has {mask.shape[1]} columns for {before} tokens before and {width} new ones, so "
                "the tokens' positions are not known."
            )
        real = mask[:, -width:] != 0
        counted = (mask != 0).long().cumsum(dim=1)[:, -width:] - 1
        if mask.shape[1] == width:
            counted = counted + (before or 0)
        return counted.masked_fill(~real, PADDING)
    if isinstance(numbered, Tensor) and numbered.shape[-1] == width and numbered.dim() == 2:
        return numbered.expand(rows, width)  # a tree of tokens, whose order only its maker knows
    start = before or 0
    return torch.arange(start, start + width, device=tokens.device).expand(rows, width)


def _cache_in(named: Mapping[str, Any]) -> Any:
    for name in CACHE_NAMES:
        if named.get(name) is not None:
            return named[name]
    return None


def _tokens_before(cache: Any) -> int | None:
    """Return how many tokens a cache holds; None where it does not tell, such as a recurrent state."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError, IndexError):
        return None


def _prompt_ends(places: Tensor, cache: Any) -> Tensor | None:
    """Return how many tokens the prompt of each row has, [rows, 1]; None where nothing tells."""
    told = _ends.get()
    if told is not None:
        if len(told) != len(places):
            raise UserError(f"{len(told)} prompt lengths were named for a forward pass of {len(places)} rows.")
        return torch.tensor(told, device=places.device)[:, None]
    before = _tokens_before(cache)
    if cache is None or before is None:
        return None
    if before == 0:  # `model.generate` reads the prompt into an empty cache, then goes on token by token
        return places.amax(dim=1, keepdim=True) + 1
    return torch.zeros_like(places[:, :1]) if places.shape[1] == 1 else None
