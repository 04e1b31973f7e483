"""Progress that the library reports and a command shows: bars on a terminal, now and then a line in a log.

Silent unless somebody listens.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from emscope.terminal import printable

logger = logging.getLogger(__name__)

Advance = Callable[[float], None]
Starter = Callable[[str, float, str], AbstractContextManager[Advance]]

FIRST_LINE, GROWTH, LONGEST = 10.0, 1.6, 600.0
"""Seconds until a log's first line, how much longer each further wait is, and the longest wait."""
HEAD_START = 0.5
"""What is reported in the first seconds (half of one) was often done by an earlier run, and tells no speed."""

_starter: ContextVar[Starter | None] = ContextVar("progress_starter", default=None)


@contextmanager
def task(name: str, total: float, unit: str) -> Iterator[Advance]:
    """Yield a function that advances the task `name` by an amount of `unit`s."""
    starter = _starter.get()
    if starter is None:
        yield lambda amount: None
    else:
        with starter(name, total, unit) as advance:
            yield advance


@dataclass
class Pace:
    """How far a task is, how fast it goes and how long it will take.

    Attributes:
        total: all of it, in units.
        unit: what is counted.
        clock: returns the time in seconds.
        done: what is done, in units.
    """

    total: float
    unit: str
    clock: Callable[[], float] = time.monotonic
    done: float = 0.0
    _began: float = field(init=False)
    _measured_from: tuple[float, float] = field(init=False)  # time, and what was done by then

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._measured_from = (self._began, 0.0)

    def advance(self, amount: float) -> None:
        """Note that `amount` units more are done."""
        self.done += amount
        now = self.clock()
        if now - self._began < HEAD_START:
            self._measured_from = (now, self.done)

    @property
    def elapsed(self) -> float:
        """Seconds since the task began."""
        return self.clock() - self._began

    @property
    def rate(self) -> float | None:
        """Units a second; None as long as nothing tells."""
        since, before = self._measured_from
        seconds, units = self.clock() - since, self.done - before
        return units / seconds if units > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all is done at this rate; None as long as nothing tells."""
        return max(self.total - self.done, 0) / self.rate if self.rate else None

    def in_words(self) -> str:
        """Return '12 of 36 steps, 1.3 steps/s, 18 s left'."""
        parts = [f"{self.done:,.0f} of {self.total:,.0f} {self.unit}", *self.speed_in_words()]
        return ", ".join(parts)

    def speed_in_words(self) -> list[str]:
        """Return the rate and the time left, as far as they are known."""
        rate, left = self.rate, self.seconds_left
        if rate is None or left is None:
            return []
        return [f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s", f"{duration(left)} left"]


def duration(seconds: float) -> str:
    """Return seconds as '45 s', '3 min 20 s' or '2 h 5 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def draws_bars(console: Console) -> bool:
    """Say whether bars can be drawn: on a terminal, and not in a notebook's cell, which only pretends to be one."""
    notebook = console.is_jupyter or "JPY_PARENT_PID" in os.environ or "COLAB_RELEASE_TAG" in os.environ
    return console.is_terminal and not console.is_dumb_terminal and not notebook


@contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Show every task started inside this context: as a bar, or as lines of the log where bars cannot be drawn."""
    token = _starter.set(_bar_on(console) if draws_bars(console) else _lines)
    try:
        yield
    finally:
        _starter.reset(token)


def _bar_on(console: Console) -> Starter:
    @contextmanager
    def start(name: str, total: float, unit: str) -> Iterator[Advance]:
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %  {task.fields[speed]}"),
        )
        pace = Pace(total, unit)
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(printable(name), total=total, speed="")

            def advance(amount: float) -> None:
                pace.advance(amount)
                bars.update(bar, advance=amount, speed=", ".join(pace.speed_in_words()))

            yield advance

    return start


@contextmanager
def _lines(name: str, total: float, unit: str) -> Iterator[Advance]:
    """Log a line after ten seconds and then at growing distances."""
    pace, wait = Pace(total, unit), FIRST_LINE
    next_line = FIRST_LINE

    def advance(amount: float) -> None:
        nonlocal next_line, wait
        pace.advance(amount)
        if pace.elapsed >= next_line and pace.done < total:
            logger.info("  %s: %s", name, pace.in_words())
            wait = min(wait * GROWTH, LONGEST)
            next_line = pace.elapsed + wait

    yield advance
