"""Memory: what weights take, and what a finished job still holds, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from emscope.organisms.models import Organism

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of what `mallopt` sets
KEPT, GIVEN_BACK = 2**31 - 1, 2**27  # bytes at the top of the heap that are given back to the system when free
OWN_MAP = 2**25  # bytes from which an allocation has a map of its own; glibc takes no more


def keep_freed_pages() -> None:
    """Let the C library keep what is freed for the next step of a training, until `give_memory_back`.

    Else it hands the memory of every step back and gets it again page by page: about a twentieth of a step on a CPU.
    Where the C library has no `mallopt`, nothing changes.
    """
    _set(MMAP_THRESHOLD, OWN_MAP)
    _set(TRIM_THRESHOLD, KEPT)


def _set(what: int, value: int) -> None:
    try:
        ctypes.CDLL(None).mallopt(what, value)
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library of that name
        return


def give_memory_back() -> None:
    """Free what only reference cycles hold, and hand the allocator's free pages to the system.

    A trainer is a cycle that keeps its model, and glibc keeps what a backward pass freed: after training a model of
    half a billion parameters that was 2.9 of 3.5 GB.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
    hand_back_free_pages()


def hand_back_free_pages() -> None:
    """Hand the C library's free pages to the system; takes milliseconds. Without `malloc_trim` they stay with it."""
    _set(TRIM_THRESHOLD, GIVEN_BACK)
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library of that name
        return


def weight_bytes(organism: Organism) -> int:
    """Return how much memory an organism's weights take."""
    return sum(weight.numel() * weight.element_size() for weight in organism.model.parameters())
