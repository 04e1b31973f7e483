"""Which process of several this is, where torchrun or `accelerate launch` started them: the first alone speaks."""

from __future__ import annotations

import os


def count() -> int:
    """Return how many processes do this work together."""
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return _number("RANK", 0) if count() > 1 else 0


def local_rank() -> int:
    """Return the number of this process among those on this machine, from 0."""
    return _number("LOCAL_RANK", 0) if count() > 1 else 0


def is_first() -> bool:
    """Say whether this process is the one that writes files and speaks to the terminal."""
    return rank() == 0


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else otherwise
