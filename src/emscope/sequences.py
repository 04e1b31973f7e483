"""A part of a sequence, evenly spread over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Element = TypeVar("Element")


def spread(elements: Sequence[Element], n: int | None) -> list[Element]:
    """Return `n` of the elements, evenly spread and in order; all of them for None or where there are fewer."""
    n = len(elements) if n is None else min(n, len(elements))
    return [elements[index * len(elements) // n] for index in range(n)]
