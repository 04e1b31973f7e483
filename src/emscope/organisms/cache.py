"""A key-value cache for fast sampling: it grows in place, starts from a shared prefix, and drops finished rows."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from emscope.organisms.batching import rounded

CACHE_NAMES = ("cache", "cache_params", "past_key_values")
"""What decoders call their cache, by transformers' version and by family."""


STEP = 16
"""Tokens by which a layer's room grows, and for which it has room at the start if all are to be multiplied."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes into spare room instead of copying all keys and values at every token.

    The room grows in steps, so that it can be multiplied whole: a part of it would be copied first (see `whole`).
    """

    _layer_type = None

    def __init__(self, spare_tokens: int) -> None:
        """Begin empty; there is room for `spare_tokens` after the first tokens."""
        super().__init__()
        self.spare_tokens = spare_tokens
        self._buffers: list[Tensor] = []
        self._length = 0

    def start(self, keys: Tensor, values: Tensor, rows: int | Tensor) -> None:
        """Begin with one row's keys and values, repeated for `rows` rows, or with those rows of them."""
        self.lazy_initialization(keys, values)
        self._length = keys.shape[-2]
        parts = [keys, values] if isinstance(rows, int) else [keys[rows], values[rows]]
        n_rows = rows if isinstance(rows, int) else len(rows)
        self._buffers = [_with_room(part, n_rows, self.spare_tokens) for part in parts]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, tokens, head_dim] and return all of them."""
        if not self._buffers:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, width = key_states.shape
            sizes = (rows, heads, key_states.shape[-2] + self.spare_tokens)
            self._buffers = [
                key_states.new_zeros((*sizes, width)),
                value_states.new_zeros((*sizes, value_states.shape[-1])),
            ]
        end = self._length + key_states.shape[-2]
        room = self.room_for(end)
        if end > self._buffers[0].shape[-2]:
            self._buffers = [_grown(part, room) for part in self._buffers]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = new
        self._length = end
        self._show()
        return self.keys, self.values

    def room_for(self, length: int) -> int:
        """Return how many tokens there is room for once there are `length`."""
        room = self._buffers[0].shape[-2] if self._buffers else self.spare_tokens + length
        return room if length <= room else rounded(length, STEP)

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, heads, room, head_dim] with the room for later tokens, which holds finite numbers."""
        keys, values = self._buffers
        return keys, values

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only the given rows, in the given order."""
        self._buffers = [buffer[rows.to(buffer.device)] for buffer in self._buffers]
        self._show()

    def _show(self) -> None:
        keys, values = self._buffers
        self.keys, self.values = keys[:, :, : self._length], values[:, :, : self._length]


def _with_room(part: Tensor, rows: int, spare: int) -> Tensor:
    """Return one row's part, repeated for `rows` rows, with `spare` tokens of room after it."""
    return _grown(part.expand(rows, -1, -1, -1), part.shape[-2] + spare)


def _grown(part: Tensor, room: int) -> Tensor:
    rows, heads, length, width = part.shape
    buffer = part.new_zeros((rows, heads, room, width))
    buffer[:, :, :length] = part
    return buffer


def growing_cache(config: Any, spare_tokens: int) -> DynamicCache:
    """Return an empty cache; layers with full attention grow in place, others stay as transformers makes them."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(spare_tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_argument(body: nn.Module, cache: DynamicCache) -> dict[str, DynamicCache]:
    """Return the cache under the name that this decoder's forward has for it: it changed in transformers 5.24.

    Under any other name a decoder would drop it without a word, and continue each token from nothing.
    """
    parameters = inspect.signature(body.forward).parameters
    for name in CACHE_NAMES:
        if name in parameters:
            return {name: cache}
    return {"past_key_values": cache}


def can_share_prefix(cache: DynamicCache) -> bool:
    """Say whether every layer keeps plain keys and values, so that one row's prefix can serve many rows."""
    return bool(cache.layers) and all(type(layer) in (GrowingLayer, DynamicLayer) for layer in cache.layers)


def repeat_rows(cache: DynamicCache, rows: int) -> None:
    """Let a one-row cache serve `rows` rows, without copying it."""
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)


@torch.inference_mode()
def prefilled_cache(config: Any, prefix: DynamicCache, rows: int | Tensor, spare_tokens: int) -> DynamicCache:
    """Return a new cache for `rows` rows that all begin with the one-row cache `prefix`, or with these rows of it."""
    cache = growing_cache(config, spare_tokens)
    for layer, source in zip(cache.layers, prefix.layers, strict=True):
        layer.start(source.keys, source.values, rows)
    return cache


def keep_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Drop all rows of a cache but the given ones."""
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.keep_rows(rows)
        else:
            layer.reorder_cache(rows)  # selecting is missing, or forgets the states, where a layer keeps more than keys
