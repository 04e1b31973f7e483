"""Some of many, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Element = TypeVar("Element")


def spread(elements: Sequence[Element], n: int) -> list[Element]:
    """Return `n` of the elements, evenly spread and in order; all of them for 0 or where there are fewer."""
    n = min(n or len(elements), len(elements))
    return [elements[index * len(elements) // n] for index in range(n)]
