"""Progress that the library reports and a command shows: bars on a terminal, now and then a line in a log.

Silent unless somebody listens.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
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

LEAST_MEASURED = 3.0
"""Seconds that finished steps must have taken together before they tell how long the others take."""

_starter: ContextVar[Starter | None] = ContextVar("progress_starter", default=None)
_plan: ContextVar[Plan | None] = ContextVar("progress_plan", default=None)
_steps: ContextVar[tuple[Step, ...]] = ContextVar("progress_steps", default=())


class Plan:
    """The steps that a command is going to take, how much work each is, and how far it has come.

    Works are relative: what finished steps have taken, on this machine, tells how long a unit of work is. It is the
    median over units, so that one step beside a busy neighbour does not speak for all.
    """

    def __init__(
        self, works: Mapping[str, float | None], what: str = "stage", clock: Callable[[], float] | None = None
    ) -> None:
        """Plan steps by name, in order; a work of None is not known.

        Args:
            works: relative seconds of each step.
            what: what a step is called.
            clock: returns the time in seconds.
        """
        self.works, self.what, self.clock = dict(works), what, clock or time.monotonic
        self._order = {name: number for number, name in enumerate(self.works, 1)}
        self._to_do = dict.fromkeys(self.works)
        self._finished: list[tuple[float, float]] = []  # seconds a unit of work, and units, of each step
        self.now, self._since = "", 0.0

    def begin(self, name: str) -> str:
        """Begin a step; returns 'stage 5 of 16: judge-base (about 6 min left)', or the name of one not planned.

        A step that is begun already has been said: what is begun inside it by the same name is a part of it.
        """
        if name == self.now:
            return name
        self.now, self._since = name, self.clock()
        return self.in_words(name)

    def in_words(self, name: str) -> str:
        """Return where a step stands among all, and the time left where something tells."""
        if name not in self._order:
            return name
        left = self.seconds_left
        about = "" if left is None else f" (about {roughly(left)} left)"
        return f"{self.what} {self._order[name]} of {len(self._order)}: {name}{about}"

    def end(self, name: str, seconds: float) -> None:
        """Note that a step is finished, and what it took, now or when it was made."""
        planned = name in self._to_do
        self._to_do.pop(name, None)
        work = self.works.get(name)
        if work and planned:
            self._finished.append((seconds / work, work))

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all is done; None as long as too little is measured, or some work is not known."""
        works = [self.works[name] for name in self._to_do]
        known = [work for work in works if work is not None]
        if sum(rate * work for rate, work in self._finished) < LEAST_MEASURED or len(known) < len(works):
            return None
        scale = self._seconds_a_unit()
        begun = self.clock() - self._since if self.now in self._to_do else 0.0
        of_now = (self.works[self.now] or 0.0) * scale if self.now in self._to_do else 0.0
        return sum(known) * scale - min(begun, of_now)

    def _seconds_a_unit(self) -> float:
        """Return the median of the finished steps' seconds a unit of work, each unit counting alike."""
        half, passed = sum(work for _, work in self._finished) / 2, 0.0
        for rate, work in sorted(self._finished):
            passed += work
            if passed >= half:
                return rate
        raise AssertionError("nothing is finished")


@dataclass
class Step:
    """A step in the making.

    Attributes:
        words: where it stands among all.
        seconds: what it took, if that is not the time between its beginning and its end.
        saved: seconds that it did not take, because parts of it were finished before.
    """

    words: str
    seconds: float | None = None
    saved: float = 0.0


@contextmanager
def plan(works: Mapping[str, float | None], what: str = "stage") -> Iterator[None]:
    """Let the steps inside this context say how far all of them are; see `Plan`."""
    token = _plan.set(Plan(works, what))
    try:
        yield
    finally:
        _plan.reset(token)


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Take a step of the plan in force, and yield what to say of it; whoever takes it says it."""
    found = _plan.get()
    if found is None:
        yield Step(name)
        return
    within = found.now
    began, made = time.monotonic(), Step(found.begin(name))
    token = _steps.set((*_steps.get(), made))
    try:
        yield made
    finally:
        _steps.reset(token)
        found.now = within
    found.end(name, time.monotonic() - began + made.saved if made.seconds is None else made.seconds)


@contextmanager
def logged_step(name: str) -> Iterator[Step]:
    """Take a step of the plan in force, with a line in the log."""
    with step(name) as made:
        logger.info("  %s", made.words)
        yield made


def saved(seconds: float) -> None:
    """Note that the steps in the making were spared some seconds, because that work was done before a stop."""
    for made in _steps.get():
        made.saved += seconds


def passed(name: str, seconds: float) -> None:
    """Note that a step of the plan in force is not to be taken: it was before, and took so many seconds then."""
    found = _plan.get()
    if found is not None:
        found.end(name, seconds)


def roughly(seconds: float) -> str:
    """Return seconds as '40 s', '6 min' or '2 h 5 min', no more exact than an estimate."""
    if seconds < 60:
        return f"{max(10 * round(seconds / 10), 10)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
            bar = bars.add_task(printable(_described(name)), total=total, speed="")

            def advance(amount: float) -> None:
                pace.advance(amount)
                bars.update(bar, advance=amount, speed=", ".join(pace.speed_in_words()))

            yield advance

    return start


def _described(name: str) -> str:
    """Return a task's name after where the plan in force stands."""
    found = _plan.get()
    return name if found is None or not found.now else f"{found.in_words(found.now)} · {name}"


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
