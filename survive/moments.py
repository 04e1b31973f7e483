"""When a command is killed: at a random moment, just before one of its file operations, or in the middle of a write."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survive.processes import LAST_ACTS, Before, Child

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGING = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"})
TORN_SIZES = (1, 100, 1000, 5000, 20_000, 60_000)
"""Bytes after which a write is cut off."""


@dataclass(frozen=True)
class Moment:
    """When one kill happens.

    Attributes:
        kind: 'random', 'operation' or 'torn'.
        seconds: of a random one, from the command's start.
        operation: of the others, the number of the file operation: it is killed before that one, or while it writes
            what follows it.
        size: of a torn write, how many bytes of a file are written.
    """

    kind: str
    seconds: float = 0.0
    operation: int = 0
    size: int = 0

    @property
    def before(self) -> Before | None:
        """What the child does to itself, or None."""
        if self.kind == "operation":
            return lambda folder: at_operation(folder, self.operation, _die)
        if self.kind == "torn":
            return lambda folder: at_operation(folder, self.operation, lambda: _allow(self.size))
        return None

    def come(self, child: Child) -> None:
        """Wait for a random moment and kill; the others happen in the child itself."""
        if self.kind == "random":
            child.signal_at(self.seconds)


def draw(chooser: random.Random, number: int, seconds: float, operations: int) -> Moment:
    """Return the moment of a kill: of every six, three are random, two before an operation, one in a write."""
    kind = ("random", "operation", "random", "operation", "random", "torn")[number % 6]
    if kind == "random":
        return Moment(kind, seconds=chooser.uniform(0, seconds))
    return Moment(kind, operation=chooser.randint(1, max(1, operations)), size=chooser.choice(TORN_SIZES))


def count_operations(report: Path) -> Before:
    """Return what makes a child count its file operations and write the number down."""

    def before(folder: Path) -> None:
        count = 0

        def one_more() -> None:
            nonlocal count
            count += 1

        def tell() -> None:
            report.write_text(str(count), encoding="utf-8")

        _watch(folder, one_more)
        LAST_ACTS.append(tell)

    return before


def at_operation(folder: Path, number: int, act: Callable[[], None]) -> None:
    """Do something just before this process's file operation of that number inside a folder."""
    count = 0

    def one_more() -> None:
        nonlocal count
        count += 1
        if count == number:
            act()

    _watch(folder, one_more)


def _watch(folder: Path, note: Callable[[], None]) -> None:
    """Call `note` before every operation of this process that changes a file in a folder."""
    inside, place, busy = str(folder.resolve()), str(Path.cwd()), False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or not (event in CHANGING or (event == "open" and _writes(args))):
            return
        busy = True  # what `note` itself opens is not the command's
        if isinstance(args[0], (str, os.PathLike)) and os.path.join(place, args[0]).startswith(inside):  # noqa: PTH118
            note()
        busy = False

    sys.addaudithook(hook)


def _writes(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], (str, os.PathLike)) and isinstance(args[2], int) and bool(args[2] & WRITING)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _allow(size: int) -> None:
    """From here on no file grows beyond `size` bytes: the write that would is cut off there, and the process ends.

    What it prints goes nowhere then, for that is a file too.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
