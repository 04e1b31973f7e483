"""Settings that make no sense are refused where they are given, in one sentence."""

from __future__ import annotations

import dataclasses
from urllib.parse import urlsplit

from emscope.errors import UserError

LARGEST_SEED = 2**32 - 1  # what every generator in use takes


def at_least(least: float, **numbers: float) -> None:
    """Refuse numbers below `least`, and those that are not finite.

    Raises:
        UserError: one of them, by its name.
    """
    for name, value in numbers.items():
        if not least <= value < float("inf"):
            raise UserError(f"{name} must be {least:g} or more, not {value}.")


def above_zero(**numbers: float) -> None:
    """Refuse numbers that are not above 0, and those that are not finite.

    Raises:
        UserError: one of them, by its name.
    """
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{name} must be above 0, not {value}.")


def shares(**numbers: float) -> None:
    """Refuse numbers that are no share of something: below 0, or 1 and more.

    Raises:
        UserError: one of them, by its name.
    """
    for name, value in numbers.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} must be 0 or more and below 1, not {value}.")


def is_address(text: str) -> bool:
    """Say whether text is the address of a server: http or https, a host, and perhaps a port and a path."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def check_seed(*seeds: int) -> None:
    """Refuse seeds that not every random generator takes.

    Raises:
        UserError: one of them.
    """
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"A seed is a whole number from 0 to {LARGEST_SEED}, not {seed}.")


def check_seeds_in(settings: object) -> None:
    """Refuse such seeds in every field `seed` or `seeds` of nested dataclasses.

    Raises:
        UserError: one of them.
    """
    if not dataclasses.is_dataclass(settings):
        return
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.name in ("seed", "seeds") and value is not None:
            check_seed(*(value if isinstance(value, tuple) else (value,)))
        check_seeds_in(value)
