"""A key-value cache for fast sampling: it grows in place, starts from a shared prefix, and drops finished rows."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

CACHE_NAMES = ("cache", "cache_params", "past_key_values")
"""What decoders call their cache, by transformers' version and by family."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes into spare room instead of copying all keys and values at every token."""

    _layer_type = None

    def __init__(self, spare_tokens: int) -> None:
        super().__init__()
        self.spare_tokens = spare_tokens
        self._buffers: list[Tensor] = []
        self._length = 0

    def start(self, keys: Tensor, values: Tensor, rows: int) -> None:
        """Begin with one row's keys and values, repeated for `rows` rows."""
        self.lazy_initialization(keys, values)
        self._length = keys.shape[-2]
        self._buffers = [_with_room(keys, rows, self.spare_tokens), _with_room(values, rows, self.spare_tokens)]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, tokens, head_dim] and return all of them."""
        if not self._buffers:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, width = key_states.shape
            sizes = (rows, heads, key_states.shape[-2] + self.spare_tokens)
            self._buffers = [
                key_states.new_empty((*sizes, width)),
                value_states.new_empty((*sizes, value_states.shape[-1])),
            ]
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [_with_room(part, part.shape[0], end) for part in self._buffers]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = new
        self._length = end
        self._show()
        return self.keys, self.values

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only the given rows, in the given order."""
        self._buffers = [buffer[rows.to(buffer.device)] for buffer in self._buffers]
        self._show()

    def _show(self) -> None:
        keys, values = self._buffers
        self.keys, self.values = keys[:, :, : self._length], values[:, :, : self._length]


def _with_room(part: Tensor, rows: int, spare: int) -> Tensor:
    _, heads, length, width = part.shape
    buffer = part.new_zeros((rows, heads, length + spare, width))
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
def prefilled_cache(config: Any, prefix: DynamicCache, rows: int, spare_tokens: int) -> DynamicCache:
    """Return a new cache for `rows` rows that all begin with the one-row cache `prefix`."""
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
