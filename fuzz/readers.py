"""All readers that are fuzzed, by name."""

from __future__ import annotations

import importlib
import importlib.util

from fuzz.harness import Target

MODULES = ("tables", "models", "servers")


def all_readers() -> dict[str, Target]:
    """Return every module's `READERS`.

    Raises:
        ValueError: two modules use one name.
    """
    readers: dict[str, Target] = {}
    for module in MODULES:
        if importlib.util.find_spec(f"fuzz.{module}") is None:
            continue
        more: dict[str, Target] = importlib.import_module(f"fuzz.{module}").READERS
        if readers.keys() & more.keys():
            raise ValueError(f"fuzz.{module} uses a name of another module: {sorted(readers.keys() & more.keys())}")
        readers |= more
    return readers
